r"""MATH: competition problems (arXiv 2103.03874), in the hub's columns, WizardMath's or AIME's.

The answer is in the column `answer`, with or without `\boxed{}`, or in the last box of `solution`
(`output` in WizardMath's file).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.study.tasks.benchmarks.question import BenchmarkRecord, Question, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Read records with `problem` (or `question`) and `solution` or `answer`."""
    return [
        Question(_id(record), record.text("problem", "instruction", "question"), _reference(record))
        for record in numbered("math", records)
    ]


def _id(record: BenchmarkRecord) -> str:
    unique_id = record.values.get("unique_id")
    return str(record.row) if unique_id in (None, "") else record.text("unique_id")


def _reference(record: BenchmarkRecord) -> dict[str, str]:
    # It imports SymPy, which takes seconds.
    from mergegrid.study.grading.answers import latex

    if record.has("answer"):
        value = record.value("answer")
        # The shortest form of a JSON number is equivalent to its original spelling.
        written = repr(value) if isinstance(value, float) else record.text("answer")
        name, gold = "answer", latex.boxed(written) or written
        reference = {"answer": gold}
    else:
        name, written = "solution", record.text("solution", "output")
        gold = latex.boxed(written) or ""
        reference = {"solution": written}
        if not gold:
            raise record.wrong(
                name,
                written,
                r"has no \boxed{} answer",
                "choose other files, or add a column 'answer'",
            )
    # If the gold answer does not match itself, every answer would be graded as wrong.
    if not latex.grade(gold, rf"\boxed{{{gold}}}").correct:
        raise record.wrong(name, written, "has an answer that the grader of MATH cannot read")
    number = latex.number_in_prose(gold)
    if number is not None and not latex.grade(gold, rf"\boxed{{{number}}}").correct:
        raise record.wrong(
            name, written, "is a sentence", f"provide the answer alone, such as {number!r}"
        )
    return reference
