"""
Every expert alone, under every sparsifier, rate and mask seed.

REQUIRED INPUTS: <results>/{family}/base, <results>/{family}/experts/{expert}/seed~{seed},
    <results>/tasks/{task}.parquet
OUTPUTS:
    scores = <results>/{family}/sweeps/{expert}/seed~{seed}.parquet
    predictions = <results>/{family}/predictions/{expert}/seed~{seed}.parquet
"""


rule sweep:
    """Score one expert under all sparsifiers; stored scores are reused."""
    input:
        base="<results>/{family}/base",
        expert="<results>/{family}/experts/{expert}/seed~{seed}",
        examples=task_examples,
    output:
        scores="<results>/{family}/sweeps/{expert}/seed~{seed}.parquet",
        predictions="<results>/{family}/predictions/{expert}/seed~{seed}.parquet",
    log:
        "<logs>/sweep/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/sweep/{family}/{expert}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(ENCODER_FAMILIES),
    # The first figure is made of these.
    priority: 3
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=encoder_gpus,
        gpu_share=encoder_share,
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        request=lambda wildcards: as_parameters(
            target=ENCODERS.scored_target(wildcards.family, wildcards.expert),
            recipes=ENCODERS.sweep_recipes(
                wildcards.family, wildcards.expert, int(wildcards.seed)
            ),
        ),
        versions=stage_versions("merge", "evaluate_encoder"),
    script:
        "../scripts/sweep.py"
