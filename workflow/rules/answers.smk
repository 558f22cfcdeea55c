"""
Length of the answers of decoders, how many were cut, how many reason, and votes over samples.

REQUIRED INPUTS: all scores, and the records of what decoders answered
OUTPUTS: answers = <results>/answers.parquet
"""


rule answers:
    """Measure the answers behind the scores."""
    input:
        scores="<results>/scores.parquet",
        records=record_files(),
    output:
        answers="<results>/answers.parquet",
    log:
        "<logs>/answers.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        versions=stage_versions("answers"),
    script:
        "../scripts/answers.py"
