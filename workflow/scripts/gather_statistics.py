from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.model_statistics.gather import gather
    from mergegrid.study.schema.encoder_jobs import StatisticsRequest

    quiet_transformers()
    gather(
        Path(snakemake.input.base),
        Path(snakemake.input.expert),
        StatisticsRequest.model_validate_json(snakemake.params.request),
        pd.read_parquet(snakemake.input.examples),
        Path(snakemake.output.folder),
        device(snakemake),
    )
