from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.model_statistics.decoder_statistics import gather_decoder
    from mergegrid.study.schema.decoder_jobs import StatisticsRequest

    quiet_transformers()
    gather_decoder(
        Path(snakemake.input.base),
        Path(snakemake.input.expert),
        StatisticsRequest.model_validate_json(snakemake.params.request),
        pd.read_parquet(snakemake.input.data),
        Path(snakemake.output.folder),
        device(snakemake),
    )
