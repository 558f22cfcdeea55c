"""
Merging methods, with each sparsifier, ranked over sets of experts.

REQUIRED INPUTS: all scores, what encoders answered and the examples of their tasks, and the records
    of what decoders answered
OUTPUTS: ranking = <results>/ranking.parquet
"""


rule ranking:
    """Rank the selected merges over sets of experts, by the differences of the findings."""
    input:
        scores="<results>/scores.parquet",
        predictions=prediction_files(),
        examples=example_files(),
        records=record_files(),
    output:
        ranking="<results>/ranking.parquet",
    log:
        "<logs>/ranking.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        versions=stage_versions("ranking"),
    script:
        "../scripts/ranking.py"
