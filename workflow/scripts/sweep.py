from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.recipes.recipe import Recipe
    from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
    from mergegrid.study.encoders.store import ScoreStore
    from mergegrid.study.encoders.sweep import sweep
    from mergegrid.study.schema.job_parameters import read_parameters
    from mergegrid.study.schema.tasks import Target

    quiet_transformers()
    target, recipes = read_parameters(snakemake.params.request, target=Target, recipes=list[Recipe])
    examples = pd.read_parquet(snakemake.input.examples)
    expert = EvaluatedExpert(Path(snakemake.input.expert), target, examples)
    store = ScoreStore(Path(snakemake.output.scores).with_suffix(".store.jsonl"))
    evaluator = EncoderEvaluator(
        Path(snakemake.input.base),
        {snakemake.wildcards.expert: expert},
        store,
        device(snakemake),
    )
    scores, predictions = sweep(target, recipes, evaluator)
    scores.to_parquet(snakemake.output.scores)
    predictions.to_parquet(snakemake.output.predictions)
