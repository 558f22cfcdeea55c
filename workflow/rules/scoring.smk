"""
Answers graded, benchmark by benchmark, and the variants of one set of experts compared.

REQUIRED INPUTS: <results>/benchmarks/{benchmark}.parquet and the answers of all variants
OUTPUTS:
    sandbox = <results>/sandbox.txt, where programs are among the answers
    scores = <results>/{family}/benchmarks/{set}/seed~{seed}/{benchmark}.parquet
    records = <results>/{family}/records/{set}/seed~{seed}/{benchmark}.parquet
    chosen = <results>/{family}/benchmarks/{set}/seed~{seed}.parquet
"""


rule sandbox:
    """Try the sandbox for programs written by models, before long work starts."""
    output:
        found="<results>/sandbox.txt",
    log:
        "<logs>/sandbox.log",
    priority: 2
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        unsafe=DECODERS.unsafe_execution if DECODERS else False,
    script:
        "../scripts/sandbox.py"


rule score:
    """Grade the answers to one benchmark; known verdicts are reused."""
    input:
        questions="<results>/benchmarks/{benchmark}.parquet",
        answers=lambda wildcards: answer_files(group_of(wildcards)),
        sandbox=sandbox_of,
    output:
        scores="<results>/{family}/benchmarks/{set}/seed~{seed}/{benchmark}.parquet",
        records="<results>/{family}/records/{set}/seed~{seed}/{benchmark}.parquet",
    log:
        "<logs>/score/{family}/{set}/seed~{seed}/{benchmark}.log",
    benchmark:
        "<logs>/benchmarks/score/{family}/{set}/seed~{seed}/{benchmark}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        request=lambda wildcards: as_json(
            decoder_jobs.score_request(
                DECODERS, wildcards.family, wildcards.benchmark, group_of(wildcards)
            )
        ),
        folder=lambda wildcards: f"{STUDY.paths.results}/{wildcards.family}/verdicts/{wildcards.benchmark}/{wildcards.set}/seed~{wildcards.seed}",
        versions=lambda wildcards: stage_versions(
            f"grade_{BENCHMARKS[wildcards.benchmark].kind}"
        ),
    script:
        "../scripts/score.py"


rule choose:
    """Select among the settings of every method, and gather the scores of all benchmarks."""
    input:
        scores=lambda wildcards: [
            f"<results>/{wildcards.family}/benchmarks/{wildcards.set}/seed~{wildcards.seed}/{benchmark}.parquet"
            for benchmark in DECODERS.owners(group_of(wildcards)[0])
        ],
    output:
        scores="<results>/{family}/benchmarks/{set}/seed~{seed}.parquet",
    log:
        "<logs>/choose/{family}/{set}/seed~{seed}.log",
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        versions=stage_versions("select"),
    script:
        "../scripts/choose.py"
