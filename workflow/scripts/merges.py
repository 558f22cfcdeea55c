from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
    from mergegrid.study.encoders.merges import merges
    from mergegrid.study.encoders.parts import OutcomeStore
    from mergegrid.study.encoders.store import ScoreStore
    from mergegrid.study.schema.encoder_jobs import MergesRequest

    quiet_transformers()
    request = MergesRequest.model_validate_json(snakemake.params.request)
    folders = [Path(folder) for folder in snakemake.input.experts]
    tables = [pd.read_parquet(path) for path in snakemake.input.examples]
    statistics = [Path(folder) for folder in snakemake.input.statistics] or [None] * len(folders)
    experts = map(EvaluatedExpert, folders, request.targets, tables, statistics)
    place = Path(snakemake.output.scores)
    store = ScoreStore(place.with_suffix(".store.jsonl"))
    evaluator = EncoderEvaluator(
        Path(snakemake.input.base),
        dict(zip(request.experts, experts, strict=True)),
        store,
        device(snakemake),
        OutcomeStore(place.with_suffix(".outcomes.jsonl")),
    )
    scores, predictions = merges(request, evaluator)
    scores.to_parquet(snakemake.output.scores)
    predictions.to_parquet(snakemake.output.predictions)
