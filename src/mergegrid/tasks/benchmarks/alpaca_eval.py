"""AlpacaEval: instructions without one right answer; a judge compares with a reference model."""

from collections.abc import Sequence

from mergegrid.tasks.benchmarks.question import Question, Record, column


def read(records: Sequence[Record]) -> list[Question]:
    """Questions of records with `instruction`, `output` (the reference) and `dataset`."""
    return [
        Question(
            str(index),
            column(record, ["instruction"], "alpaca_eval"),
            {
                "output": column(record, ["output"], "alpaca_eval"),
                "dataset": record.get("dataset") or "",
            },
        )
        for index, record in enumerate(records)
    ]
