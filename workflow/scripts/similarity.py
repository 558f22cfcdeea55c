from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.schema.similarity_jobs import EncoderSimilarityRequest
    from mergegrid.study.scoring.similarity import encoder_similarity

    quiet_transformers()
    encoder_similarity(
        EncoderSimilarityRequest.model_validate_json(snakemake.params.request),
        Path(snakemake.input.base),
        Path(snakemake.input.expert),
        pd.read_parquet(snakemake.input.examples),
        device(snakemake),
    ).to_parquet(snakemake.output.table)
