"""GSM8K: arithmetic word problems (arXiv 2110.14168); the answer ends in `#### 18`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.errors import DataError
from mergegrid.study.grading.answers import numbers
from mergegrid.study.tasks.benchmarks.question import Question, Record, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Questions of records with `question` and `answer`: a solution, or a number alone."""
    return [
        Question(str(record.row), record.text("question"), {"answer": _answer(record)})
        for record in numbered("gsm8k", records)
    ]


def _answer(record: Record) -> str:
    value = record.value("answer")
    answer = repr(value) if isinstance(value, float) else record.text("answer")
    ends = {each.strip() for each in answer.split("####")[1:]}
    if len(ends) > 1:
        raise record.wrong("answer", answer, "of several golds: '####' stands before each")
    try:
        numbers.grade(answer, "")
    except DataError as error:
        raise record.wrong("answer", answer, f"no gold answer: {error}") from error
    return answer
