from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
    from mergegrid.study.encoders.store import ScoreStore
    from mergegrid.study.encoders.sweep import sweep
    from mergegrid.study.schema.encoder_jobs import SweepRequest

    quiet_transformers()
    request = SweepRequest.model_validate_json(snakemake.params.request)
    examples = pd.read_parquet(snakemake.input.examples)
    expert = EvaluatedExpert(Path(snakemake.input.expert), request.target, examples)
    store = ScoreStore(Path(snakemake.output.scores).with_suffix(".store.jsonl"))
    evaluator = EncoderEvaluator(
        Path(snakemake.input.base),
        {snakemake.wildcards.expert: expert},
        store,
        device(snakemake),
    )
    scores, predictions = sweep(request, evaluator)
    scores.to_parquet(snakemake.output.scores)
    predictions.to_parquet(snakemake.output.predictions)
