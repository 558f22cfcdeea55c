"""Versions of libraries behind scores, and whether one table compares across several."""

import json
from collections import Counter

import pandas as pd


def mixed_libraries(scores: pd.DataFrame) -> list[str]:
    """A sentence for each library of which several versions are behind the scores.

    Of Python, minor versions are told apart: 3.11 and 3.12, not 3.11.2 and 3.11.7.

    Args:
        scores: rows as in `scores.parquet`, with the column `libraries`.
    """
    counts: dict[str, Counter[str]] = {}
    for text, count in scores["libraries"].value_counts().items():
        for library, versions in json.loads(str(text)).items():
            for version in {_told_apart(library, each) for each in versions}:
                counts.setdefault(library, Counter())[version] += count
    return [
        f"Scores were computed with several versions of {library}: "
        + ", ".join(
            f"{version} ({count} {'score' if count == 1 else 'scores'})"
            for version, count in sorted(found.items())
        )
        + "."
        for library, found in sorted(counts.items())
        if len(found) > 1
    ]


def _told_apart(library: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if library == "python" else version
