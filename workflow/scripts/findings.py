from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.scoring.comparisons import read_answers, read_labels
    from mergegrid.study.scoring.findings import findings
    from mergegrid.study.scoring.scores import read_scores

    predictions, records = (
        [Path(path) for path in snakemake.input.get(kind, [])]
        for kind in ("predictions", "records")
    )
    table = findings(
        read_scores([Path(snakemake.input.scores)]),
        read_answers(predictions, records),
        read_labels([Path(path) for path in snakemake.input.get("examples", [])]),
    )
    table.to_parquet(snakemake.output.findings)
