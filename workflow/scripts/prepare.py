from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.checkpoints.sources.fetch import Record, locate
    from mergegrid.study.schema.tasks import Task
    from mergegrid.study.tasks.examples import prepare

    task = Task.model_validate_json(snakemake.params.task)
    records = {
        split: Record.from_json(Path(path).read_text()) for split, path in snakemake.input.items()
    }
    paths = {split: locate(record, getattr(task, split)) for split, record in records.items()}
    prepare(task, paths).to_parquet(snakemake.output.examples)
