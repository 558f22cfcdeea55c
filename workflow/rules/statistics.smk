"""
Model statistics for methods that need data, gathered once for all merges.

REQUIRED INPUTS: <results>/{family}/base, the expert, and the examples of its task
OUTPUTS: folder = <results>/{family}/statistics/{expert}/seed~{seed}
"""


rule statistics:
    """Gather Fisher information and Gram matrices of an expert from its training examples."""
    input:
        base="<results>/{family}/base",
        expert="<results>/{family}/experts/{expert}/seed~{seed}",
        examples=task_examples,
    output:
        folder=directory("<results>/{family}/statistics/{expert}/seed~{seed}"),
    log:
        "<logs>/statistics/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/statistics/{family}/{expert}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(ENCODER_FAMILIES),
    # Too few examples are found before the sweeps start.
    priority: 1
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=encoder_gpus,
        gpu_share=encoder_share,
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: 12000 * attempt,
        runtime=lambda wildcards, attempt: 360 * attempt,
    params:
        request=lambda wildcards: as_parameters(
            target=ENCODERS.target(wildcards.family, wildcards.expert),
            statistics=encoder_jobs.needed_statistics(ENCODERS),
        ),
        versions=stage_versions("statistics"),
    script:
        "../scripts/gather_statistics.py"
