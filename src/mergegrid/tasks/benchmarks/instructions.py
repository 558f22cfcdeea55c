"""Instructions with one right answer, letter by letter."""

from collections.abc import Sequence

from mergegrid.tasks.benchmarks.question import Question, Record, column


def read(records: Sequence[Record]) -> list[Question]:
    """Questions of records with `instruction` and `output`."""
    return [
        Question(
            str(index),
            column(record, ["instruction"], "instructions"),
            {"output": column(record, ["output"], "instructions")},
        )
        for index, record in enumerate(records)
    ]
