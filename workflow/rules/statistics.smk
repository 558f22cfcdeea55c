"""
Model statistics for methods that need data, gathered once for all merges.

REQUIRED INPUTS: <results>/{family}/base, the expert, and the examples of its task, its instructions or
    <results>/sources/statistics~{family}~{expert}.json
OUTPUTS:
    data = <results>/{family}/calibration/{expert}.parquet, of decoders with texts for statistics
    folder = <results>/{family}/statistics/{expert}/seed~{seed}
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


rule calibration:
    """Read or generate the texts that the statistics of a decoder are gathered from."""
    input:
        unpack(
            lambda wildcards: record_of(
                f"statistics~{wildcards.family}~{wildcards.expert}"
            )
        ),
    output:
        data="<results>/{family}/calibration/{expert}.parquet",
    log:
        "<logs>/calibration/{family}/{expert}.log",
    benchmark:
        "<logs>/benchmarks/calibration/{family}/{expert}.tsv"
    wildcard_constraints:
        family=one_of(DECODER_FAMILIES),
    priority: 2
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        data=lambda wildcards: as_json(
            decoder_jobs.unlicensed(
                DECODER_FAMILIES[wildcards.family].experts[wildcards.expert].statistics
            )
        ),
        versions=stage_versions("prepare_instructions"),
    script:
        "../scripts/calibration.py"


rule decoder_statistics:
    """Gather Fisher information and Gram matrices of a decoder, one block in memory at a time."""
    input:
        base="<results>/{family}/base",
        expert="<results>/{family}/experts/{expert}/seed~{seed}",
        data=statistics_texts,
    output:
        folder=directory("<results>/{family}/statistics/{expert}/seed~{seed}"),
    log:
        "<logs>/decoder_statistics/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/decoder_statistics/{family}/{expert}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(DECODER_FAMILIES),
    # Too few examples are found before the merges start.
    priority: 1
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        gpu_share=lambda wildcards: whole_share(gpus()),
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: memory_estimates.statistics_mb(
            decoder_size(wildcards.family)
        )
        * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        request=lambda wildcards: as_json(
            decoder_jobs.statistics_request(
                DECODERS, wildcards.family, wildcards.expert
            )
        ),
        versions=stage_versions("decoder_statistics"),
    script:
        "../scripts/decoder_statistics.py"
