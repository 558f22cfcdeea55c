from pathlib import Path

from _job import device, job, quiet_transformers

# Processes that vLLM spawns import this file once more.
if __name__ == "__main__":
    with job(snakemake):
        import pandas as pd

        from mergegrid.checkpoints.publish import published_digest, read_manifest
        from mergegrid.hashing import digest
        from mergegrid.stages import stage_versions
        from mergegrid.study.generation.answering import AnswerJob
        from mergegrid.study.generation.merged import Models
        from mergegrid.study.generation.variants import answer_variants
        from mergegrid.study.schema.decoder_jobs import Ask, MergePart
        from mergegrid.study.schema.encoder_jobs import files_of
        from mergegrid.study.schema.generation import Generation
        from mergegrid.study.schema.job_parameters import read_parameters

        quiet_transformers()
        asks, generation, merges = read_parameters(
            snakemake.params.request, asks=list[Ask], generation=Generation, merges=list[MergePart]
        )
        recipes = [merge.recipe for merge in merges]
        base = Path(snakemake.input.base)
        folders = map(Path, snakemake.input.experts)
        models = Models(
            base=base,
            experts=dict(zip(recipes[0].experts, folders, strict=True)),
            output=merges[0].output,
            homologous=merges[0].homologous,
            base_is=merges[0].base_is,
            # There are none where no method needs them.
            statistics=dict(
                zip(recipes[0].experts, map(Path, snakemake.input.statistics), strict=False)
            ),
            threads=snakemake.threads,
        )
        made_from = {
            "base": published_digest(base),
            "experts": {name: published_digest(path) for name, path in models.experts.items()},
            "output": models.output.model_dump(mode="json"),
            "versions": stage_versions("merge"),
        }

        def digest_of(recipe):
            files = files_of(recipe.method, models.statistics, recipe.experts)
            gathered = {
                name: read_manifest(path.parent)["files"][path.name] for name, path in files.items()
            }
            more = {"statistics": gathered} if gathered else {}
            return digest({**made_from, "recipe": recipe.digest, **more})

        names = [ask.benchmark for ask in asks]
        tables = map(pd.read_parquet, snakemake.input.questions)
        answers = answer_variants(
            models,
            recipes,
            digest_of,
            AnswerJob(
                asks,
                dict(zip(names, tables, strict=True)),
                generation,
                Path(snakemake.params.store),
                device(snakemake),
                snakemake.resources.get("gpu", 0),
            ),
        )
        for recipe, path in zip(recipes, snakemake.output.answers, strict=True):
            answers[recipe.digest].to_parquet(path)
