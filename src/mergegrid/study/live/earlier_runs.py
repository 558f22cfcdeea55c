"""Duration of jobs in earlier runs of a study, from the files in which Snakemake measured them."""

import csv
from itertools import islice
from pathlib import Path

#: Files read of each rule.
_MOST = 200


def mean_seconds(logs: Path) -> dict[str, float]:
    """Mean seconds of a job by rule; rules that have not been measured are left out."""
    means = {}
    for folder in sorted((logs / "benchmarks").glob("*/")):
        times = [
            seconds
            for file in islice(sorted(folder.rglob("*.tsv")), _MOST)
            if (seconds := _seconds(file)) is not None
        ]
        if times:
            means[folder.name] = sum(times) / len(times)
    return means


def _seconds(file: Path) -> float | None:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        return float(rows[-1]["s"])
    except (OSError, IndexError, KeyError, ValueError):
        return None  # Cut off while it was written.
