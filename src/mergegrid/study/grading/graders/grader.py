"""What every grader does: answers in, a verdict for each and a value for each question out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mergegrid.stages import Libraries, union_of_versions
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.schema.decoder_jobs import ScoreRequest


@dataclass(frozen=True)
class Question:
    """A question as a grader sees it."""

    id: str
    instruction: str
    reference: Mapping[str, Any]


@dataclass(frozen=True)
class Grades:
    """Verdicts on the answers of one variant to the questions of one benchmark."""

    records: pd.DataFrame
    """One row per answer, in order, with at least `extracted` and `verdict`; no times, which
    no two runs have in common."""
    values: pd.DataFrame
    """One row per question, in order, and one column per metric, the first being the primary."""
    summaries: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Metrics that are no mean over questions: value and standard error over all of them."""


@dataclass(frozen=True)
class Context:
    """What graders may use."""

    request: ScoreRequest
    """What is scored."""
    folder: Path
    """Folder for what a judge remembers."""
    verdicts: "Verdicts"
    """Verdicts known already."""
    workers: int
    """Programs that may run side by side."""


class Verdicts:
    """Verdicts in a journal, each with the libraries that it was reached with."""

    def __init__(self, journal: Journal, libraries: Libraries) -> None:
        self._journal, self._here = journal, libraries
        self._used: list[Libraries] = []

    def get(self, inputs: Any) -> Any | None:
        """The verdict on these inputs, if there is one."""
        known = self._journal.get(inputs)
        if known is None:
            return None
        self._used.append(known["libraries"])
        return known["verdict"]

    def add(self, inputs: Any, verdict: Any) -> None:
        """Remember a verdict for good."""
        self._used.append(self._here)
        self._journal.add(inputs, {"verdict": verdict, "libraries": self._here})

    @property
    def libraries(self) -> Libraries:
        """Libraries behind the verdicts given and added; those of this process if there is none."""
        return union_of_versions(self._used or [self._here])


Answers = Sequence[Sequence[str]]
"""The answers to each question, one per sample."""
Grader = Callable[[Context, str, Sequence[Question], Answers], Grades]
"""Grades the answers of one variant, which goes by the name given."""


def flat(answers: Answers) -> list[str]:
    """All answers in order."""
    return [answer for each in answers for answer in each]


def grouped(values: Sequence[Any], answers: Answers) -> list[list[Any]]:
    """Values of all answers, by question."""
    rest = iter(values)
    return [[next(rest) for _ in each] for each in answers]
