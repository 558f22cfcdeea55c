from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.recipes.recipe import Recipe
    from mergegrid.study.schema.job_parameters import read_parameters
    from mergegrid.study.schema.splits import Split
    from mergegrid.study.scoring.similarity import encoder_similarity

    quiet_transformers()
    recipes, count, max_length, split = read_parameters(
        snakemake.params.request, recipes=list[Recipe], examples=int, max_length=int, split=Split
    )
    encoder_similarity(
        recipes,
        Path(snakemake.input.base),
        Path(snakemake.input.expert),
        pd.read_parquet(snakemake.input.examples),
        count,
        max_length,
        device(snakemake),
        split,
    ).to_parquet(snakemake.output.table)
