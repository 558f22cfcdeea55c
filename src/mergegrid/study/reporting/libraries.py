"""Notes on scores computed with different versions of a library."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd

from mergegrid.study.scoring.scores import read_scores


def table_notes(scores: list[Path]) -> list[str]:
    """Return the notes below a table made from files of scores; none without scores."""
    return mixed_libraries(read_scores(scores)) if scores else []


def mixed_libraries(scores: pd.DataFrame) -> list[str]:
    """Return a sentence for each library of which several versions produced the scores.

    Patch versions of Python count as one: 3.11.2 and 3.11.7 are both 3.11.

    Args:
        scores: rows of `scores.parquet`, with the column `libraries`.
    """
    counts: dict[str, Counter[str]] = {}
    for text, count in scores["libraries"].value_counts().items():
        for library, versions in json.loads(str(text)).items():
            if library == "python":
                versions = [".".join(version.split(".")[:2]) for version in versions]
            for version in set(versions):
                counts.setdefault(library, Counter())[version] += count
    sentences = []
    for library, by_version in sorted(counts.items()):
        if len(by_version) > 1:
            parts = [
                f"{version} ({count} {'score' if count == 1 else 'scores'})"
                for version, count in sorted(by_version.items())
            ]
            sentences.append(
                f"Scores were computed with several versions of {library}: {', '.join(parts)}."
            )
    return sentences
