"""
All scores in one table, and the tables and figures that are made from it.

REQUIRED INPUTS: the scores of all sweeps, merges, oracles and benchmarks, the deltas and the experts
OUTPUTS:
    scores = <results>/scores.parquet
    tables = <results>/tables/{table}.csv, .md, .html and .tex
    figures = <results>/figures/{family}/{figure}.svg and .png
"""


rule scores:
    """Gather every score of the study."""
    input:
        sweep_files(),
        merge_files(),
        oracle_files(),
        decoder_score_files(),
        harness_files(),
    output:
        scores="<results>/scores.parquet",
    log:
        "<logs>/scores.log",
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    script:
        "../scripts/scores.py"


rule table:
    """Make one table, for programs (CSV) and for people (Markdown, HTML, LaTeX)."""
    input:
        unpack(lambda wildcards: results_for(TABLES[wildcards.table].needs)),
    output:
        csv="<results>/tables/{table}.csv",
        md="<results>/tables/{table}.md",
        html=report(
            "<results>/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            subcategory=lambda wildcards: TABLES[wildcards.table].topic,
            # With two labels the page would show the second as a switch.
            labels={"table": "{table}"},
        ),
        tex="<results>/tables/{table}.tex",
    log:
        "<logs>/table/{table}.log",
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        request=table_parameters,
        caption=lambda wildcards: TABLES[wildcards.table].caption,
        versions=stage_versions("tables"),
    script:
        "../scripts/table.py"


rule figure:
    """Draw one figure of one family."""
    input:
        unpack(figure_inputs),
    output:
        svg=report(
            "<results>/figures/{family}/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{family}",
            labels={"figure": "{figure}"},
        ),
        png="<results>/figures/{family}/{figure}.png",
    log:
        "<logs>/figure/{family}/{figure}.log",
    # They are what a user waits for.
    priority: 5
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        caption=lambda wildcards: FIGURES[wildcards.figure].caption.format(
            family=wildcards.family
        ),
        versions=stage_versions("figures"),
    script:
        "../scripts/figure.py"
