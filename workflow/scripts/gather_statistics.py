from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.model_statistics.gather import gather
    from mergegrid.study.schema.encoder_jobs import Statistic
    from mergegrid.study.schema.job_parameters import read_parameters
    from mergegrid.study.schema.tasks import Target

    quiet_transformers()
    target, statistics = read_parameters(
        snakemake.params.request, target=Target, statistics=list[Statistic]
    )
    gather(
        Path(snakemake.input.base),
        Path(snakemake.input.expert),
        target,
        statistics,
        pd.read_parquet(snakemake.input.examples),
        Path(snakemake.output.folder),
        device(snakemake),
    )
