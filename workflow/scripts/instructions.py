from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.checkpoints.sources.fetch import Record, locate
    from mergegrid.config.decoders import Instructions
    from mergegrid.finetuning.instructions import prepare_instructions

    data = Instructions.model_validate_json(snakemake.params.data)
    path = None
    if data.records is not None:
        record = Record.from_json(Path(snakemake.input.record).read_text())
        path = locate(record, data.records)
    prepare_instructions(data, path).to_parquet(snakemake.output.data)
