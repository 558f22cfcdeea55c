"""What a finished run leaves: where its results are, and where its time went."""

from pathlib import Path

import pandas as pd

from mergegrid.config.study import Study

#: Stages in the order in which data flows, each with the words a reader knows it by.
STAGES = {
    "fetch": "fetch models and data",
    "prepare": "prepare examples",
    "import_base": "import bases",
    "expert": "fine-tune experts",
    "deltas": "measure deltas",
    "sweep": "sweep drop rates",
    "merges": "merge and score",
    "import_decoder": "import decoders",
    "instructions": "prepare instructions",
    "questions": "prepare questions",
    "decoder": "fine-tune decoders",
    "merge": "merge decoders",
    "generate": "generate answers",
    "score": "score answers",
    "harness": "run lm-evaluation-harness",
}


def stage_times(logs: Path) -> pd.DataFrame:
    """Time and memory of each stage, from the benchmark files of its jobs.

    Returns:
        Columns `stage`, `jobs`, `seconds` (sum over jobs), `cpu_seconds`, `peak_mb` (largest job).
    """
    rows = []
    for name, words in STAGES.items():
        files = sorted((logs / "benchmarks" / name).rglob("*.tsv"))
        if files:
            jobs = pd.concat([pd.read_csv(file, sep="\t") for file in files])
            numbers = jobs[["s", "cpu_time", "max_rss"]].apply(pd.to_numeric, errors="coerce")
            rows.append(
                {
                    "stage": words,
                    "jobs": len(jobs),
                    "seconds": numbers["s"].sum(),
                    "cpu_seconds": numbers["cpu_time"].sum(),
                    "peak_mb": numbers["max_rss"].max(),
                }
            )
    return pd.DataFrame(rows, columns=["stage", "jobs", "seconds", "cpu_seconds", "peak_mb"])


def summary(study: Study) -> str:
    """Text for the end of a run."""
    results = Path(study.paths.results)
    times = stage_times(Path(study.paths.logs))
    table = times.to_string(index=False, float_format=lambda value: f"{value:.0f}")
    places = {
        "scores": results / "scores.parquet",
        "tables": results / "tables",
        "figures": results / "figures",
        "report": results / "report.html",
    }
    lines = [f"{name:8} {path}" for name, path in places.items() if path.exists()]
    return "\n".join(
        [
            "Time of each stage (jobs run side by side, so these add up to more than the wait):",
            table,
            "",
            *lines,
        ]
    )
