"""
Merged models that the study keeps, with their scores on their model cards.

REQUIRED INPUTS: <results>/{family}/base, the experts of the set, the scores of its merges, and the
records of models and data
OUTPUTS: folder = <results>/{family}/exports/{set}/seed~{seed}, with one folder per model
"""


rule export:
    """Merge the selected or named recipes of one set of experts, and keep them."""
    input:
        base="<results>/{family}/base",
        experts=lambda wildcards: [
            f"<results>/{wildcards.family}/experts/{expert}/seed~{wildcards.seed}"
            for expert in experts_of(wildcards)
        ],
        statistics=set_statistics,
        scores=export_scores,
        records=export_records,
    output:
        folder=directory("<results>/{family}/exports/{set}/seed~{seed}"),
    log:
        "<logs>/export/{family}/{set}/seed~{seed}.log",
    benchmark:
        "<logs>/benchmarks/export/{family}/{set}/seed~{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: MERGE_THREADS
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        request=lambda wildcards: as_json(export_request(wildcards)),
        versions=stage_versions("merge"),
    script:
        "../scripts/export.py"
