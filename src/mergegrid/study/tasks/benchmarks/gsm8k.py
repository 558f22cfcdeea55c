"""GSM8K: arithmetic word problems (arXiv 2110.14168); answers end in `#### 18`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.errors import DataError
from mergegrid.study.grading.answers import numbers
from mergegrid.study.tasks.benchmarks.question import BenchmarkRecord, Question, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Read records with `question` and `answer`: a solution, or a number alone."""
    return [
        Question(str(record.row), record.text("question"), {"answer": _answer(record)})
        for record in numbered("gsm8k", records)
    ]


def _answer(record: BenchmarkRecord) -> str:
    value = record.value("answer")
    answer = repr(value) if isinstance(value, float) else record.text("answer")
    golds = {part.strip() for part in answer.split("####")[1:]}
    if len(golds) > 1:
        raise record.wrong("answer", answer, "has several different gold answers after '####'")
    try:
        numbers.grade(answer, "")
    except DataError as error:
        raise record.wrong("answer", answer, f"has no gold answer ({error})") from error
    return answer
