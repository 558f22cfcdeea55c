"""AlpacaEval: open-ended instructions; a judge compares answers with those of a reference model."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.study.tasks.benchmarks.question import Question, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Read records with `instruction`, `output` (the reference answer) and `dataset`."""
    return [
        Question(
            str(record.row),
            record.text("instruction"),
            # A reference model may have given an empty answer.
            {"output": record.text("output", empty=True), "dataset": record.optional("dataset")},
        )
        for record in numbered("alpaca_eval", records)
    ]
