from pathlib import Path

from _job import job

with job(snakemake):
    import pandas as pd

    from mergegrid.study.grading.benchmark import score_benchmark
    from mergegrid.study.schema.decoder_jobs import ScoreRequest

    scores, records = score_benchmark(
        ScoreRequest.model_validate_json(snakemake.params.request),
        pd.read_parquet(snakemake.input.questions),
        [pd.read_parquet(path) for path in snakemake.input.answers],
        Path(snakemake.params.folder),
        snakemake.threads,
    )
    scores.to_parquet(snakemake.output.scores)
    records.to_parquet(snakemake.output.records)
