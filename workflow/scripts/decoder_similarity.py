from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.schema.similarity_jobs import DecoderSimilarityRequest
    from mergegrid.study.scoring.similarity import decoder_similarity

    quiet_transformers()
    decoder_similarity(
        DecoderSimilarityRequest.model_validate_json(snakemake.params.request),
        Path(snakemake.input.base),
        Path(snakemake.input.expert),
        pd.read_parquet(snakemake.input.questions),
        device(snakemake),
    ).to_parquet(snakemake.output.table)
