"""Benchmark `instructions`: every instruction has one right answer, compared letter by letter."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.study.tasks.benchmarks.question import Question, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Read records with `instruction` and `output`."""
    return [
        Question(str(record.row), record.text("instruction"), {"output": record.text("output")})
        for record in numbered("instructions", records)
    ]
