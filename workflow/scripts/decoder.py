from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.checkpoints.sources.fetch import Record, locate
    from mergegrid.checkpoints.sources.source import SourceConfig
    from mergegrid.study.decoders.importing import import_decoder
    from mergegrid.study.schema.decoder_jobs import DecoderFinetuneRequest

    quiet_transformers()
    base, folder = Path(snakemake.input.base), Path(snakemake.output.folder)
    if snakemake.params.request is None:
        record = Record.from_json(Path(snakemake.input.source).read_text())
        source = SourceConfig.model_validate_json(snakemake.params.source)
        made_from = {"source": record.source, "resolved": record.resolved, "digest": record.digest}
        import_decoder(locate(record, source, anew=True), folder, made_from)
    else:
        from mergegrid.study.finetuning.decoder import finetune_decoder

        request = DecoderFinetuneRequest.model_validate_json(snakemake.params.request)
        data = pd.read_parquet(snakemake.input.data)
        finetune_decoder(base, request, data, folder, device(snakemake))
