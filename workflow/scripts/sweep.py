from pathlib import Path

from _job import device, job, quiet_transformers

with job(snakemake):
    import pandas as pd

    from mergegrid.study.encoders.evaluator import Bench, Member
    from mergegrid.study.encoders.store import ScoreStore
    from mergegrid.study.encoders.sweep import sweep
    from mergegrid.study.schema.encoder_jobs import SweepRequest

    quiet_transformers()
    request = SweepRequest.model_validate_json(snakemake.params.request)
    examples = pd.read_parquet(snakemake.input.examples)
    member = Member(Path(snakemake.input.expert), request.target, examples)
    store = ScoreStore(Path(snakemake.output.scores).with_suffix(".store.jsonl"))
    bench = Bench(
        Path(snakemake.input.base),
        {snakemake.wildcards.expert: member},
        store,
        device(snakemake),
    )
    scores, predictions = sweep(request, bench)
    scores.to_parquet(snakemake.output.scores)
    predictions.to_parquet(snakemake.output.predictions)
