"""
Models that learn the tasks of a set of experts together, to measure merges against.

REQUIRED INPUTS: <results>/{family}/base and the examples of the tasks of the set
OUTPUTS:
    oracle = <results>/{family}/oracles/{set}/seed~{seed}, removed when its scores are there
    scores = <results>/{family}/oracles/{set}/seed~{seed}.parquet
"""


rule oracle:
    """Fine-tune the base for all tasks of one set of experts at once."""
    input:
        base="<results>/{family}/base",
        examples=set_examples,
    output:
        # As large as all models of the set together; only its scores are kept.
        folder=temp(directory("<results>/{family}/oracles/{set}/seed~{seed}")),
    log:
        "<logs>/oracle/{family}/{set}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/oracle/{family}/{set}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(ENCODER_FAMILIES),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=encoder_gpus,
        gpu_share=encoder_share,
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        request=oracle_parameters,
        versions=stage_versions("finetune_multitask"),
    script:
        "../scripts/oracle.py"


rule oracle_scores:
    """Score an oracle on each of its tasks."""
    input:
        oracle="<results>/{family}/oracles/{set}/seed~{seed}",
        examples=set_examples,
    output:
        scores="<results>/{family}/oracles/{set}/seed~{seed}.parquet",
    log:
        "<logs>/oracle_scores/{family}/{set}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/oracle_scores/{family}/{set}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(ENCODER_FAMILIES),
    # So that oracles do not pile up.
    priority: 1
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=encoder_gpus,
        gpu_share=encoder_share,
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        request=oracle_parameters,
        versions=stage_versions("evaluate_encoder"),
    script:
        "../scripts/oracle_scores.py"
