"""
What the study cost: time, memory and GPUs of its jobs. Nothing else depends on it.

REQUIRED INPUTS: all scores, deltas and similarities, and the files of measurements below <logs>/benchmarks
OUTPUTS:
    jobs = <results>/costs/costs.parquet
    table = <results>/costs/costs.csv, .md, .html and .tex
    figure = <results>/costs/costs.svg and .png
"""


rule costs:
    """Gather the cost of every job, as measured by Snakemake and, for GPUs, by the job."""
    input:
        # Measurements are not inputs: their jobs have ended when these files exist.
        unpack(lambda wildcards: results_for("scores")),
        unpack(lambda wildcards: results_for("deltas")),
        unpack(lambda wildcards: results_for("similarity")),
    output:
        jobs="<results>/costs/costs.parquet",
        csv="<results>/costs/costs.csv",
        md="<results>/costs/costs.md",
        html=report(
            "<results>/costs/costs.html",
            caption="../report/costs.rst",
            category="Costs",
            labels={"costs": "table"},
        ),
        tex="<results>/costs/costs.tex",
        svg=report(
            "<results>/costs/costs.svg",
            caption="../report/costs.rst",
            category="Costs",
            labels={"costs": "figure"},
        ),
        png="<results>/costs/costs.png",
    log:
        "<logs>/costs.log",
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        logs=STUDY.paths.logs,
        asked=lambda wildcards: canonical_json(
            snakemake_compat.requested_memory(workflow, DECODER_FAMILIES or [None])
        ),
        versions=stage_versions("costs"),
    script:
        "../scripts/costs.py"
