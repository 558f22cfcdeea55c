from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.finetuning.multitask import finetune_together
    from mergegrid.study.schema.encoder_jobs import OracleRequest

    quiet_transformers()
    request = OracleRequest.model_validate_json(snakemake.params.request)
    examples = [pd.read_parquet(path) for path in snakemake.input.examples]
    base, folder = Path(snakemake.input.base), Path(snakemake.output.folder)
    finetune_together(base, request, examples, folder, device(snakemake))
