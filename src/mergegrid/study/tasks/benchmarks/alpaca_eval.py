"""AlpacaEval: instructions without one right answer; a judge compares with a reference model."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.study.tasks.benchmarks.question import Question, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Questions of records with `instruction`, `output` (the reference) and `dataset`."""
    return [
        Question(
            str(record.row),
            record.text("instruction"),
            # A reference model may have answered nothing.
            {"output": record.text("output", empty=True), "dataset": record.optional("dataset")},
        )
        for record in numbered("alpaca_eval", records)
    ]
