from pathlib import Path

from _job import fetched_model, job, quiet_transformers

with job(snakemake):
    from mergegrid.study.encoders.importing import import_base

    quiet_transformers()
    path, made_from = fetched_model(snakemake)
    import_base(path, Path(snakemake.output.folder), made_from)
