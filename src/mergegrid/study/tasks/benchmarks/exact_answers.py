"""Benchmark `instructions`: every instruction has one right answer, compared letter by letter."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.study.tasks.benchmarks.question import BenchmarkQuestion, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[BenchmarkQuestion]:
    """Read records with `instruction` and `output`."""
    return [
        BenchmarkQuestion(
            str(record.row), record.text("instruction"), {"output": record.text("output")}
        )
        for record in numbered("instructions", records)
    ]
