from pathlib import Path

from _job import job

with job(snakemake):
    import pandas as pd

    from mergegrid.checkpoints.sources.fetch import Record
    from mergegrid.study.schema.export_jobs import ExportRequest
    from mergegrid.study.scoring.exporting import export

    request = ExportRequest.model_validate_json(snakemake.params.request)
    inputs, folder = snakemake.input, Path(snakemake.output.folder)
    folder.mkdir(parents=True, exist_ok=True)
    export(
        request,
        pd.read_parquet(inputs.scores),
        Path(inputs.base),
        dict(zip(request.experts, map(Path, inputs.experts), strict=True)),
        dict(zip(request.experts, map(Path, inputs.statistics), strict=False)),
        {Path(path).stem: Record.from_json(Path(path).read_text()) for path in inputs.records},
        folder,
        snakemake.threads,
    )
