from pathlib import Path

from _job import device, fetched_model, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.decoders.importing import import_decoder
    from mergegrid.study.schema.decoder_jobs import DecoderFinetuneRequest

    quiet_transformers()
    base, folder = Path(snakemake.input.base), Path(snakemake.output.folder)
    if snakemake.params.request is None:
        path, made_from = fetched_model(snakemake, anew=True)
        import_decoder(path, folder, made_from)
    else:
        from mergegrid.study.finetuning.decoder import finetune_decoder

        request = DecoderFinetuneRequest.model_validate_json(snakemake.params.request)
        data = pd.read_parquet(snakemake.input.data)
        finetune_decoder(base, request, data, folder, device(snakemake))
