"""
Decoders: bases imported, experts fine-tuned on instructions or imported.

REQUIRED INPUTS: <results>/sources/base~{family}.json, and for each expert
    <results>/sources/expert~{family}~{expert}.json or its instructions
OUTPUTS:
    base = <results>/{family}/base
    instructions = <results>/{family}/instructions/{expert}.parquet
    expert = <results>/{family}/experts/{expert}/seed~{seed}
"""


rule import_decoder:
    """Convert a pre-trained decoder to safetensors, which every engine reads."""
    input:
        source="<results>/sources/base~{family}.json",
    output:
        folder=directory("<results>/{family}/base"),
    log:
        "<logs>/import_decoder/{family}.log",
    benchmark:
        "<logs>/benchmarks/import_decoder/{family}.tsv"
    wildcard_constraints:
        family=one_of(DECODER_FAMILIES),
    # Errors are found before long work starts.
    priority: 2
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        source=lambda wildcards: source_parameters(f"base~{wildcards.family}"),
        versions=stage_versions("import_decoder"),
    script:
        "../scripts/import_decoder.py"


rule instructions:
    """Read or generate the instructions that an expert is trained on, and split them."""
    input:
        unpack(
            lambda wildcards: record_of(f"data~{wildcards.family}~{wildcards.expert}")
        ),
    output:
        data="<results>/{family}/instructions/{expert}.parquet",
    log:
        "<logs>/instructions/{family}/{expert}.log",
    benchmark:
        "<logs>/benchmarks/instructions/{family}/{expert}.tsv"
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
                DECODER_FAMILIES[wildcards.family].experts[wildcards.expert].data
            )
        ),
        versions=stage_versions("prepare_instructions"),
    script:
        "../scripts/instructions.py"


rule decoder:
    """Fine-tune a decoder, or import the ready one of the configuration."""
    input:
        unpack(decoder_origin),
    output:
        folder=directory("<results>/{family}/experts/{expert}/seed~{seed}"),
    log:
        "<logs>/decoder/{family}/{expert}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/decoder/{family}/{expert}/seed~{seed}.tsv"
    wildcard_constraints:
        family=one_of(DECODER_FAMILIES),
    # The longest jobs go first, so that no core waits for one at the end.
    priority: 2
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        gpu_share=lambda wildcards: whole_share(gpus()),
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        mem_mb=lambda wildcards, attempt: finetuning_mb(wildcards) * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        request=finetune_parameters,
        source=ready_source,
        versions=lambda wildcards: stage_versions(
            "import_decoder" if is_ready(wildcards) else "finetune_decoder"
        ),
    script:
        "../scripts/decoder.py"
