from pathlib import Path

from _job import job

with job(snakemake):
    import pandas as pd

    from mergegrid.study.reporting.findings_text import sections, write_findings
    from mergegrid.study.scoring.scores import read_scores

    made = sections(
        pd.read_parquet(snakemake.input.findings),
        read_scores([Path(snakemake.input.scores)]),
        pd.read_parquet(snakemake.input.costs),
        snakemake.params.title,
    )
    write_findings(made, Path(snakemake.output.md), Path(snakemake.output.html))
