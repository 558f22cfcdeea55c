"""
Bases as they are, experts fine-tuned or imported, and the size of their deltas.

REQUIRED INPUTS: <results>/sources/base~{family}.json, <results>/tasks/{task}.parquet
OUTPUTS:
    base = <results>/{family}/base
    expert = <results>/{family}/experts/{expert}/seed~{seed}
    deltas = <results>/{family}/deltas/{expert}/seed~{seed}.parquet
"""


rule import_base:
    """Convert a pre-trained encoder to the layout that all later stages read."""
    input:
        source="<results>/sources/base~{family}.json",
    output:
        folder=directory("<results>/{family}/base"),
    log:
        "<logs>/import_base/{family}.log",
    benchmark:
        "<logs>/benchmarks/import_base/{family}.tsv"
    wildcard_constraints:
        family=one_of(ENCODER_FAMILIES),
    # Errors are found before long work starts.
    priority: 5
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        source=lambda wildcards: source_parameters(f"base~{wildcards.family}"),
        versions=stage_versions("import_encoder"),
    script:
        "../scripts/import_base.py"


rule expert:
    """Fine-tune an expert, or import the ready one of the configuration."""
    input:
        unpack(expert_origin),
    output:
        folder=directory("<results>/{family}/experts/{expert}/seed~{seed}"),
    log:
        "<logs>/expert/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/expert/{family}/{expert}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(ENCODER_FAMILIES),
    # The first figure is made of their scores, and training takes longest: before `sweep`.
    priority: 4
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
        request=lambda wildcards: as_json(
            encoder_jobs.finetune_request(
                ENCODERS, wildcards.family, wildcards.expert, int(wildcards.seed)
            )
        ),
        source=ready_source,
        versions=lambda wildcards: stage_versions(
            "import_encoder" if is_ready(wildcards) else "finetune_encoder"
        ),
    script:
        "../scripts/expert.py"


rule deltas:
    """Measure how large the deltas of an expert are, per tensor and overall."""
    input:
        base="<results>/{family}/base",
        expert="<results>/{family}/experts/{expert}/seed~{seed}",
    output:
        table="<results>/{family}/deltas/{expert}/seed~{seed}.parquet",
    log:
        "<logs>/deltas/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/deltas/{family}/{expert}/seed~{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: measuring_threads()
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        versions=stage_versions("deltas"),
    script:
        "../scripts/deltas.py"
