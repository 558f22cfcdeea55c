from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.api import run_job
    from mergegrid.merging import MergeJob
    from mergegrid.study.schema.decoder_jobs import MergePart
    from mergegrid.study.schema.encoder_jobs import files_of

    request = MergePart.model_validate_json(snakemake.params.request)
    recipe = request.recipe
    # There are none where the method needs none.
    folders = dict(zip(recipe.experts, map(Path, snakemake.input.statistics), strict=False))
    merge = MergeJob(
        base=Path(snakemake.input.base),
        experts=dict(zip(recipe.experts, map(Path, snakemake.input.experts), strict=True)),
        recipes={Path(snakemake.output.folder): recipe},
        output=request.output,
        statistics=files_of(recipe.method, folders, recipe.experts),
        homologous=request.homologous,
        base_is=request.base_is,
    )
    run_job(merge, threads=snakemake.threads)
