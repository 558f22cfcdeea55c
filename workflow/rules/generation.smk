"""
Merged decoders, and their answers to all benchmarks of their experts.

REQUIRED INPUTS: <results>/{family}/base, the experts, statistics of the experts where a method needs
them, and the records of the benchmarks
OUTPUTS:
    questions = <results>/benchmarks/{benchmark}.parquet
    model = <results>/{family}/models/{variant}, removed when its answers are there
    answers = <results>/{family}/answers/{variant}.parquet
"""


rule questions:
    """Read the questions of a benchmark and put them into prompts."""
    input:
        unpack(lambda wildcards: record_of(f"benchmark~{wildcards.benchmark}")),
    output:
        questions="<results>/benchmarks/{benchmark}.parquet",
    log:
        "<logs>/questions/{benchmark}.log",
    benchmark:
        "<logs>/benchmarks/questions/{benchmark}.tsv"
    priority: 2
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        request=lambda wildcards: as_parameters(
            benchmark=decoder_jobs.questions_of(BENCHMARKS[wildcards.benchmark])
        ),
        versions=stage_versions("prepare_questions"),
    script:
        "../scripts/questions.py"


rule merge:
    """Merge one recipe into a folder that every engine loads."""
    input:
        base="<results>/{family}/base",
        experts=lambda wildcards: expert_folders(candidate_of(wildcards)),
        statistics=lambda wildcards: statistics_folders([candidate_of(wildcards)]),
    output:
        folder=temp(directory("<results>/{family}/models/{variant}")),
    log:
        "<logs>/merge/{family}/{variant}.log",
    benchmark:
        "<logs>/benchmarks/merge/{family}/{variant}.tsv"
    conda:
        "../../environment.yml"
    threads: MERGE_THREADS
    resources:
        # Shared with the jobs that read the model, which go first, so it bounds the models on disk;
        # see limit_merged_models().
        merged_models=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        request=lambda wildcards: as_json(
            decoder_jobs.merge_part(DECODERS, candidate_of(wildcards))
        ),
        versions=stage_versions("merge"),
    script:
        "../scripts/merge.py"


rule generate:
    """Generate the answers of one merged model to all its benchmarks."""
    input:
        model="<results>/{family}/models/{variant}",
        questions=lambda wildcards: questions_for(candidate_of(wildcards)),
    output:
        answers="<results>/{family}/answers/{variant}.parquet",
    log:
        "<logs>/generate/{family}/{variant}.log",
    benchmark:
        "<logs>/benchmarks/generate/{family}/{variant}.tsv"
    wildcard_constraints:
        # Other families pass all candidates of a set through one engine.
        family=one_of({key[0] for key in GROUPS} - {key[0] for key in ONE_ENGINE}),
    # So that merged models do not pile up.
    priority: 1
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=lambda wildcards: generation_gpus(wildcards.family),
        gpu_share=lambda wildcards: whole_share(generation_gpus(wildcards.family)),
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        merged_models=1,
        mem_mb=lambda wildcards, attempt: generation_mb(wildcards.family) * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        request=lambda wildcards: as_parameters(
            **decoder_jobs.generate_parts(
                DECODERS, wildcards.family, [candidate_of(wildcards)]
            )
        ),
        versions=stage_versions("generate"),
    script:
        "../scripts/generate.py"


for family, experts, seed in ONE_ENGINE:

    rule:
        """Generate the answers of all candidates of one set of experts, through one engine."""
        name:
            f"generate_{family}_{experts}_{seed}"
        input:
            base=f"<results>/{family}/base",
            experts=expert_folders(GROUPS[family, experts, seed][0]),
            statistics=statistics_folders(GROUPS[family, experts, seed]),
            questions=questions_for(GROUPS[family, experts, seed][0]),
        output:
            answers=answer_files(GROUPS[family, experts, seed]),
        log:
            f"<logs>/generate/{family}/{experts}/seed~{seed}.log",
        benchmark:
            f"<logs>/benchmarks/generate/{family}/{experts}/seed~{seed}.tsv"
        priority: 1
        conda:
            "../../environment.yml"
        # On the CPU torch computes with one thread in all jobs.
        threads: MERGE_THREADS if gpus() else 1
        resources:
            gpu=generation_gpus(family),
            gpu_share=lambda wildcards, family=family: whole_share(
                generation_gpus(family)
            ),
            nodes=1,
            cpus_per_gpu=CPUS_PER_GPU,
            mem_mb=lambda wildcards, attempt, family=family: generation_mb(family)
            * attempt,
            runtime=lambda wildcards, attempt: 1440 * attempt,
        params:
            request=as_parameters(
                **decoder_jobs.generate_parts(
                    DECODERS, family, GROUPS[family, experts, seed]
                )
            ),
            store=f"{STUDY.paths.results}/{family}/answers/{experts}/seed~{seed}.store.jsonl",
            versions=stage_versions("merge", "generate"),
        script:
            "../scripts/generate_variants.py"
