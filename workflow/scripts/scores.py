from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.scoring.scores import read_scores

    scores = read_scores([Path(path) for path in snakemake.input])
    scores.to_parquet(snakemake.output.scores)
