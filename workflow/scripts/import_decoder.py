from pathlib import Path

from _job import job, quiet_transformers

with job(snakemake):
    from mergegrid.checkpoints.sources.fetch import Record, locate
    from mergegrid.checkpoints.sources.source import SourceConfig
    from mergegrid.study.decoders.importing import import_decoder

    quiet_transformers()
    record = Record.from_json(Path(snakemake.input.source).read_text())
    source = SourceConfig.model_validate_json(snakemake.params.source)
    made_from = {"source": record.source, "resolved": record.resolved, "digest": record.digest}
    import_decoder(locate(record, source, anew=True), Path(snakemake.output.folder), made_from)
