"""The interface of graders: answers in, a verdict per answer and a value per question out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mergegrid.stages import Libraries, union_of_versions
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.schema.decoder_jobs import ScoreRequest
from mergegrid.study.tasks.benchmarks.question import Question

Samples = Sequence[Sequence[str]]
"""The sampled answers to every question: `[["4", "5"], ["Paris", "Lyon"]]`."""


@dataclass(frozen=True)
class Grades:
    """Verdicts on one model's answers to the questions of one benchmark."""

    records: pd.DataFrame
    """One row per answer, in order, with at least `extracted` and `verdict`. It holds no times, so
    that equal answers give equal records."""
    values: pd.DataFrame
    """One row per question, in order, and one column per metric, the primary one first."""
    summaries: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Metrics that are not a mean over questions: value and standard error over all of them."""


class VerdictCache:
    """Verdicts in a journal, each with the versions of the libraries behind it."""

    def __init__(self, journal: Journal, libraries: Libraries) -> None:
        """Create a cache.

        Args:
            journal: The file of verdicts.
            libraries: Versions installed here, which are recorded with new verdicts.
        """
        self._journal, self._installed = journal, libraries
        self._used: list[Libraries] = []

    def get(self, inputs: Any) -> Any | None:
        """Return the cached verdict on some inputs, or None."""
        entry = self._journal.get(inputs)
        if entry is None:
            return None
        self._used.append(entry["libraries"])
        return entry["verdict"]

    def add(self, inputs: Any, verdict: Any) -> None:
        """Add a verdict to the journal."""
        self._used.append(self._installed)
        self._journal.add(inputs, {"verdict": verdict, "libraries": self._installed})

    @property
    def libraries(self) -> Libraries:
        """Versions behind the verdicts that were got or added; if none were, those installed."""
        return union_of_versions(self._used or [self._installed])


@dataclass(frozen=True)
class Context:
    """What graders may use."""

    request: ScoreRequest
    folder: Path
    """Folder in which a judge keeps its answers."""
    verdicts: VerdictCache
    workers: int
    """Number of programs that may run in parallel."""


Grader = Callable[[Context, str, Sequence[Question], Samples], Grades]
"""Grades the answers of one model, which is called by the given name in messages."""


def with_references(
    questions: Sequence[Question], samples: Samples
) -> list[tuple[Mapping[str, Any], str]]:
    """Pair every answer, in order, with the reference of its question."""
    return [
        (question.reference, answer)
        for question, answers in zip(questions, samples, strict=True)
        for answer in answers
    ]


def grouped(values: Sequence[Any], samples: Samples) -> list[list[Any]]:
    """Group values, one per answer, by question."""
    remaining = iter(values)
    return [[next(remaining) for _ in answers] for answers in samples]
