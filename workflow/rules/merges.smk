"""
Sets of experts merged by every method, with and without a sparsifier in front.

REQUIRED INPUTS: <results>/{family}/base, the experts of the set, the examples of their tasks, and
statistics of the experts where a method needs them
OUTPUTS:
    scores = <results>/{family}/merges/{set}/seed~{seed}.parquet
    predictions = <results>/{family}/predictions/{set}/seed~{seed}.parquet
"""


rule merges:
    """Compare the candidates of one set of experts and score the selected ones on the test split."""
    input:
        base="<results>/{family}/base",
        experts=lambda wildcards: [
            f"<results>/{wildcards.family}/experts/{expert}/seed~{wildcards.seed}"
            for expert in experts_of(wildcards)
        ],
        examples=set_examples,
        statistics=set_statistics,
    output:
        scores="<results>/{family}/merges/{set}/seed~{seed}.parquet",
        predictions="<results>/{family}/predictions/{set}/seed~{seed}.parquet",
    log:
        "<logs>/merges/{family}/{set}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/merges/{family}/{set}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(ENCODER_FAMILIES),
        # Predictions of one expert are made by the sweep.
        set=r"[^/]+\+[^/]+",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=encoder_gpus,
        gpu_share=encoder_share,
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        request=lambda wildcards: as_json(
            encoder_jobs.merges_request(
                ENCODERS, wildcards.family, experts_of(wildcards), int(wildcards.seed)
            )
        ),
        versions=stage_versions("merge", "evaluate_encoder", "select", *search_stages()),
    script:
        "../scripts/merges.py"
