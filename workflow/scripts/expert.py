from pathlib import Path

from _job import device, fetched_model, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.checkpoints.publish import published_digest
    from mergegrid.study.encoders.importing import import_expert
    from mergegrid.study.finetuning.classifier import finetune
    from mergegrid.study.schema.encoder_jobs import FinetuneRequest

    quiet_transformers()
    request = FinetuneRequest.model_validate_json(snakemake.params.request)
    folder = Path(snakemake.output.folder)
    if borrowed := snakemake.input.get("expert"):
        ready = Path(borrowed)
        made_from = {"expert": published_digest(ready)}
        import_expert(ready, Path(snakemake.input.base), request, folder, made_from)
    elif request.settings is None:
        ready, made_from = fetched_model(snakemake)
        import_expert(ready, Path(snakemake.input.base), request, folder, made_from)
    else:
        examples = pd.read_parquet(snakemake.input.examples)
        base = Path(snakemake.input.base)
        finetune(base, request, examples, folder, device(snakemake))
