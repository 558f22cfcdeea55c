from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.api import run_job
    from mergegrid.merging import MergeJob
    from mergegrid.recipes.output import Output
    from mergegrid.recipes.recipe import Recipe
    from mergegrid.study.schema.job_parameters import read_parameters

    recipe, output, homologous = read_parameters(
        snakemake.params.request, recipe=Recipe, output=Output, homologous=bool
    )
    merge = MergeJob(
        base=Path(snakemake.input.base),
        experts=dict(zip(recipe.experts, map(Path, snakemake.input.experts), strict=True)),
        recipes={Path(snakemake.output.folder): recipe},
        output=output,
        homologous=homologous,
    )
    run_job(merge, threads=snakemake.threads)
