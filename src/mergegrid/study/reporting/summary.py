"""Summary of a finished run: where its results are, and how its time was spent."""

from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.costs import STAGES, job_costs
from mergegrid.study.reporting.libraries import mixed_libraries
from mergegrid.study.schema.study import Study
from mergegrid.study.scoring.scores import read_scores


def stage_times(logs: Path) -> pd.DataFrame:
    """Sum the time of each stage over its jobs.

    Returns:
        Columns `stage`, `jobs`, `seconds`, `cpu_seconds` and `peak_mb` (of the largest job).
    """
    jobs = job_costs(logs).groupby("rule", sort=False)
    times = jobs.agg(
        jobs=("job", "size"),
        seconds=("seconds", "sum"),
        cpu_seconds=("cpu_seconds", "sum"),
        peak_mb=("memory_mb", "max"),
    )
    times.insert(0, "stage", [STAGES[rule] for rule in times.index])
    return times.reset_index(drop=True)


def library_warnings(study: Study) -> list[str]:
    """Return a warning for each library of which several versions produced the study's scores."""
    path = Path(study.paths.results) / "scores.parquet"
    if not path.is_file():
        return []
    scores = read_scores([path])
    if "libraries" not in scores:
        return [f"warning: {path} was written by an earlier version; the next run rebuilds it"]
    return [f"warning: {path}: {note}" for note in mixed_libraries(scores)]


def summary(study: Study) -> str:
    """Return the text that is printed at the end of a run."""
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
    head = "Time of each stage (jobs run in parallel, so the sum exceeds the elapsed time):"
    return "\n".join([head, table, "", *lines, *library_warnings(study)])
