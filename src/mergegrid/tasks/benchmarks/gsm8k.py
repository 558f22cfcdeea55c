"""GSM8K: arithmetic word problems (arXiv 2110.14168); the answer ends in `#### 18`."""

from collections.abc import Sequence

from mergegrid.tasks.benchmarks.question import Question, Record, column


def read(records: Sequence[Record]) -> list[Question]:
    """Questions of records with `question` and `answer`."""
    return [
        Question(
            str(index),
            column(record, ["question"], "gsm8k"),
            {"answer": column(record, ["answer"], "gsm8k")},
        )
        for index, record in enumerate(records)
    ]
