"""MATH: competition problems (arXiv 2103.03874), in the columns of the hub or of WizardMath's file.

The answer is the column `answer`, or what is boxed in `solution` (`output` in WizardMath's file).
"""

from collections.abc import Sequence

from mergegrid.tasks.benchmarks.question import Question, Record, column


def read(records: Sequence[Record]) -> list[Question]:
    """Questions of records with `problem` and `solution` or `answer`."""
    return [
        Question(
            str(record.get("unique_id") or index),
            column(record, ["problem", "instruction"], "math"),
            {"answer": str(record["answer"])}
            if record.get("answer") not in (None, "")
            else {"solution": column(record, ["solution", "output"], "math")},
        )
        for index, record in enumerate(records)
    ]
