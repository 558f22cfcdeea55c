from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.recipes.output import Output
    from mergegrid.recipes.recipe import Recipe
    from mergegrid.study.generation.merged import Models
    from mergegrid.study.schema.decoder_jobs import QuestionSplit
    from mergegrid.study.schema.job_parameters import read_parameters
    from mergegrid.study.scoring.similarity import decoder_similarity
    from mergegrid.study.tasks.question_splits import in_split

    quiet_transformers()
    recipes, count, split, chat, output, homologous = read_parameters(
        snakemake.params.request,
        recipes=list[Recipe],
        examples=int,
        split=QuestionSplit,
        chat=bool,
        output=Output,
        homologous=bool,
    )
    models = Models(
        base=Path(snakemake.input.base),
        experts={snakemake.wildcards.expert: Path(snakemake.input.expert)},
        output=output,
        homologous=homologous,
    )
    questions = in_split(pd.read_parquet(snakemake.input.questions), split)
    decoder_similarity(recipes, models, questions, count, chat, device(snakemake)).to_parquet(
        snakemake.output.table
    )
