from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.recipe_merging import merge_recipe
    from mergegrid.study.schema.decoder_jobs import MergeRequest

    request = MergeRequest.model_validate_json(snakemake.params.request)
    experts = dict(zip(request.recipe.experts, map(Path, snakemake.input.experts), strict=True))
    merge_recipe(
        request.recipe,
        Path(snakemake.input.base),
        experts,
        request.output,
        request.homologous,
        Path(snakemake.output.folder),
        snakemake.threads,
    )
