from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.checkpoints.sources.fetch import Record, locate
    from mergegrid.study.finetuning.instruction_examples import prepare_calibration
    from mergegrid.study.schema.instructions import Calibration

    data = Calibration.model_validate_json(snakemake.params.data)
    path = None
    if data.records is not None:
        record = Record.from_json(Path(snakemake.input.record).read_text())
        path = locate(record, data.records)
    prepare_calibration(data, path).to_parquet(snakemake.output.data)
