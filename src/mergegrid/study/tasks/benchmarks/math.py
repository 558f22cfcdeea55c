r"""MATH: competition problems (arXiv 2103.03874), in the hub's columns or those of WizardMath.

The answer is the column `answer`, with or without its `\boxed{}`, or what is in the last box of
`solution` (`output` in WizardMath's file).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.study.tasks.benchmarks.question import Question, Record, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Questions of records with `problem` and `solution` or `answer`."""
    return [
        Question(_name(record), record.text("problem", "instruction"), _reference(record))
        for record in numbered("math", records)
    ]


def _name(record: Record) -> str:
    name = record.values.get("unique_id")
    return str(record.row) if name is None or name == "" else record.text("unique_id")


def _reference(record: Record) -> dict[str, str]:
    from mergegrid.study.grading.answers import (
        latex,  # It brings SymPy along, which is slow to start.
    )

    if record.has("answer"):
        value = record.value("answer")
        # Of a number in JSON the shortest form is the one that it was written in, or as good.
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
                r"without a \boxed{} answer",
                "name the right files, or give records with a column 'answer'",
            )
    # What the grader cannot tell from itself would make every answer wrong.
    if not latex.grade(gold, rf"\boxed{{{gold}}}").correct:
        raise record.wrong(name, written, "no answer that the grader of MATH can read")
    number = latex.number_in_prose(gold)
    if number is not None and not latex.grade(gold, rf"\boxed{{{number}}}").correct:
        raise record.wrong(name, written, "a sentence", f"give the answer alone, as {number!r}")
    return reference
