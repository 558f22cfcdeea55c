from pathlib import Path

from _job import fetched_model, job, quiet_transformers

with job(snakemake):
    from mergegrid.study.decoders.importing import import_decoder

    quiet_transformers()
    path, made_from = fetched_model(snakemake, anew=True)
    import_decoder(path, Path(snakemake.output.folder), made_from)
