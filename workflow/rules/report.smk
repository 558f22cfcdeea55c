"""
All scores in one table, and the tables and figures that are made from it.

REQUIRED INPUTS: the scores of all sweeps, merges and benchmarks, the deltas and the experts
OUTPUTS:
    scores = <results>/scores.parquet
    tables = <results>/tables/{table}.csv, .md and .html
    figures = <results>/figures/{family}/{figure}.svg and .png
"""


rule scores:
    """Gather every score of the study."""
    input:
        sweep_files(),
        merge_files(),
        decoder_score_files(),
        harness_files(),
    output:
        scores="<results>/scores.parquet",
    log:
        "<logs>/scores.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code_of("scores"),
    script:
        "../scripts/scores.py"


rule table:
    """Make one table, for programs (CSV) and for people (Markdown, HTML)."""
    input:
        unpack(lambda wildcards: results_for(TABLES[wildcards.table])),
    output:
        csv="<results>/tables/{table}.csv",
        md="<results>/tables/{table}.md",
        html=report(
            "<results>/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "<logs>/table/{table}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        licences=licences,
        code=code_of("table"),
    script:
        "../scripts/table.py"


rule figure:
    """Draw one figure of one family."""
    input:
        unpack(lambda wildcards: results_for(FIGURES[wildcards.figure])),
    output:
        svg=report(
            "<results>/figures/{family}/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"family": "{family}", "figure": "{figure}"},
        ),
        png="<results>/figures/{family}/{figure}.png",
    log:
        "<logs>/figure/{family}/{figure}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code_of("figure"),
    script:
        "../scripts/figure.py"
