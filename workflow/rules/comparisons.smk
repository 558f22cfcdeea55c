"""
Every sparsifier compared with none on the same test examples.

REQUIRED INPUTS: all scores, what encoders answered and the examples of their tasks, and the records
    of what decoders answered
OUTPUTS: comparisons = <results>/comparisons.parquet
"""


rule comparisons:
    """Compare in pairs, by resampling the test examples and the seeds."""
    input:
        scores="<results>/scores.parquet",
        predictions=prediction_files(),
        examples=example_files(),
        records=record_files(),
    output:
        comparisons="<results>/comparisons.parquet",
    log:
        "<logs>/comparisons.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        versions=stage_versions("comparisons"),
    script:
        "../scripts/comparisons.py"
