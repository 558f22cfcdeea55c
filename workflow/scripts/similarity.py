from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.recipes.recipe import Recipe
    from mergegrid.study.schema.job_parameters import read_parameters
    from mergegrid.study.scoring.similarity import encoder_similarity

    quiet_transformers()
    recipes, count, max_length = read_parameters(
        snakemake.params.request, recipes=list[Recipe], examples=int, max_length=int
    )
    encoder_similarity(
        recipes,
        Path(snakemake.input.base),
        Path(snakemake.input.expert),
        pd.read_parquet(snakemake.input.examples),
        count,
        max_length,
        device(snakemake),
    ).to_parquet(snakemake.output.table)
