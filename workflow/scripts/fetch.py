from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.checkpoints.sources.fetch import fetch
    from mergegrid.checkpoints.sources.source import SourceConfig

    source = SourceConfig.model_validate_json(snakemake.params.source)
    record = fetch(source, snakemake.params.kind)
    Path(snakemake.output.record).write_text(record.to_json())
