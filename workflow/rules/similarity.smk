"""
Similarity of the embeddings of every expert when its deltas are dropped.

REQUIRED INPUTS: <results>/{family}/base, <results>/{family}/experts/{expert}/seed~{seed},
    <results>/tasks/{task}.parquet or <results>/benchmarks/{benchmark}.parquet
OUTPUTS: table = <results>/{family}/similarity/{expert}/seed~{seed}.parquet
"""


rule similarity:
    """Compare the embeddings of a sparsified encoder with those of the unchanged expert."""
    input:
        base="<results>/{family}/base",
        expert="<results>/{family}/experts/{expert}/seed~{seed}",
        examples=task_examples,
    output:
        table="<results>/{family}/similarity/{expert}/seed~{seed}.parquet",
    log:
        "<logs>/similarity/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/similarity/{family}/{expert}/seed~{seed}.tsv"
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
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        request=lambda wildcards: as_parameters(
            recipes=ENCODERS.similarity_recipes(
                wildcards.family, wildcards.expert, int(wildcards.seed)
            ),
            examples=ENCODERS.similarity.examples,
            max_length=ENCODER_FAMILIES[wildcards.family].max_length,
            split=ENCODERS.similarity.split or "test",
        ),
        versions=stage_versions("merge", "similarity"),
    script:
        "../scripts/similarity.py"


rule decoder_similarity:
    """Compare the embeddings of a sparsified decoder with those of the unchanged expert."""
    input:
        base="<results>/{family}/base",
        expert="<results>/{family}/experts/{expert}/seed~{seed}",
        questions=first_questions,
    output:
        table="<results>/{family}/similarity/{expert}/seed~{seed}.parquet",
    log:
        "<logs>/decoder_similarity/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/decoder_similarity/{family}/{expert}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(DECODER_FAMILIES),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        gpu_share=lambda wildcards: whole_share(gpus()),
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: memory_estimates.similarity_mb(
            decoder_size(wildcards.family), on_gpu=bool(gpus())
        )
        * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        request=lambda wildcards: as_parameters(
            **decoder_jobs.similarity_parts(
                DECODERS, wildcards.family, wildcards.expert, int(wildcards.seed)
            )
        ),
        versions=stage_versions("merge", "similarity"),
    script:
        "../scripts/decoder_similarity.py"
