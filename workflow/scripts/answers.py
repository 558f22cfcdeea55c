from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.scoring.answers import answer_forms
    from mergegrid.study.scoring.scores import read_scores

    scores = read_scores([Path(snakemake.input.scores)])
    answer_forms(scores, map(Path, snakemake.input.records)).to_parquet(snakemake.output.answers)
