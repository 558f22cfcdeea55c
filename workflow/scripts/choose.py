from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.scoring.scores import read_scores
    from mergegrid.scoring.selection import choose

    scores = read_scores([Path(path) for path in snakemake.input.scores])
    choose(scores).to_parquet(snakemake.output.scores)
