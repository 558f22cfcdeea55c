"""
What the study found: which recipe is best, whether sparsifiers help, and how sure that is.

REQUIRED INPUTS: all scores, what encoders answered and the examples of their tasks, the records of what
    decoders answered, and the costs of all jobs
OUTPUTS:
    findings = <results>/findings.parquet
    text = <results>/findings.md, and as a page of the report findings_text.html
"""


rule findings:
    """Compare recipes, sparsifiers and single experts over examples, seeds and sets."""
    input:
        scores="<results>/scores.parquet",
        predictions=prediction_files(),
        examples=example_files(),
        records=record_files(),
    output:
        findings="<results>/findings.parquet",
    log:
        "<logs>/findings.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        versions=stage_versions("findings"),
    script:
        "../scripts/findings.py"


rule findings_text:
    """Write the findings in sentences."""
    input:
        findings="<results>/findings.parquet",
        scores="<results>/scores.parquet",
        costs="<results>/costs/costs.parquet",
    output:
        md="<results>/findings.md",
        html=report(
            "<results>/findings_text.html",
            caption="../report/findings.rst",
            category="Findings",
            labels={"findings": "in words"},
        ),
    log:
        "<logs>/findings_text.log",
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        title=STUDY.title,
    script:
        "../scripts/findings_text.py"
