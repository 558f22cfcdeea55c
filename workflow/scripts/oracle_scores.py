from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.encoders.oracle import score_oracle
    from mergegrid.study.schema.encoder_jobs import OracleRequest

    quiet_transformers()
    request = OracleRequest.model_validate_json(snakemake.params.request)
    tables = map(pd.read_parquet, snakemake.input.examples)
    examples = dict(zip(request.experts, tables, strict=True))
    scores = score_oracle(request, Path(snakemake.input.oracle), examples, device(snakemake))
    scores.to_parquet(snakemake.output.scores)
