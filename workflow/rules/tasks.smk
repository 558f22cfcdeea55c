"""
Read, check, deduplicate and split the examples of a task, once for all models.

REQUIRED INPUTS: <results>/sources/task~{task}~{split}.json
OUTPUTS: examples = <results>/tasks/{task}.parquet
"""


rule prepare:
    """Make the training, validation and test examples of a task."""
    input:
        unpack(task_sources),
    output:
        examples="<results>/tasks/{task}.parquet",
    log:
        "<logs>/prepare/{task}.log",
    benchmark:
        "<logs>/benchmarks/prepare/{task}.tsv"
    # Errors are found before long work starts.
    priority: 5
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        task=lambda wildcards: canonical_json(
            TASKS[wildcards.task].without_notes().model_dump(mode="json")
        ),
        versions=stage_versions("prepare_task"),
    script:
        "../scripts/prepare.py"
