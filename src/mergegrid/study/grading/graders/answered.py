"""Graders of questions with one right answer: a number, a formula or a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.errors import DataError
from mergegrid.study.grading.answers import latex, numbers
from mergegrid.study.grading.answers.answer_grade import AnswerGrade
from mergegrid.study.grading.graders.grader import Context, Grades, Samples, flat, grouped
from mergegrid.study.tasks.benchmarks.question import Question


def grade_numbers(
    context: Context, name: str, questions: Sequence[Question], samples: Samples
) -> Grades:
    """Grade answers to GSM8K: the number at the end, by a robust rule and by the paper's."""
    return _grade(
        lambda reference, text: numbers.grade(reference["answer"], text), questions, samples
    )


def grade_formulas(
    context: Context, name: str, questions: Sequence[Question], samples: Samples
) -> Grades:
    """Grade answers to MATH: the formula at the end, by a robust rule and by the paper's.

    Raises:
        DataError: A record has no answer.
    """

    def grade(reference: Mapping[str, Any], text: str) -> AnswerGrade:
        gold = reference.get("answer") or latex.boxed(reference["solution"])
        if gold is None:
            raise DataError(
                f"the solution {reference['solution'][:80]!r} has no \\boxed answer; "
                "check the files of the benchmark, or add a column `answer` to its records"
            )
        inputs = {"gold": gold, "text": text}
        cached = context.verdicts.get(inputs)
        if cached is None:
            cached = asdict(latex.grade(gold, text))
            context.verdicts.add(inputs, cached)
        return AnswerGrade(**cached)

    return _grade(grade, questions, samples)


def grade_texts(
    context: Context, name: str, questions: Sequence[Question], samples: Samples
) -> Grades:
    """Grade answers to instructions: the whole text, except for white space around it."""
    right = [
        [answer.strip() == question.reference["output"].strip() for answer in answers]
        for question, answers in zip(questions, samples, strict=True)
    ]
    records = pd.DataFrame(
        {
            "extracted": [answer.strip() for answer in flat(samples)],
            "verdict": ["right" if correct else "wrong" for row in right for correct in row],
        }
    )
    return Grades(records, pd.DataFrame({"accuracy": [float(np.mean(row)) for row in right]}))


def _grade(
    grade: Callable[[Mapping[str, Any], str], AnswerGrade],
    questions: Sequence[Question],
    samples: Samples,
) -> Grades:
    grades = [
        grade(question.reference, answer)
        for question, answers in zip(questions, samples, strict=True)
        for answer in answers
    ]
    records = pd.DataFrame(
        {
            "extracted": result.extracted,
            "verdict": _verdict(result.extracted, result.correct),
            "paper_extracted": result.paper_extracted,
            "paper_verdict": _verdict(result.paper_extracted, result.paper_correct),
        }
        for result in grades
    )
    metrics = {
        "accuracy": records["verdict"] == "right",
        "accuracy_paper_rule": records["paper_verdict"] == "right",
        "unparsed": records["verdict"] == "unparsed",
        "unparsed_paper_rule": records["paper_verdict"] == "unparsed",
    }
    values = pd.DataFrame(
        {
            metric: [float(np.mean(group)) for group in grouped(hits.tolist(), samples)]
            for metric, hits in metrics.items()
        }
    )
    return Grades(records, values)


def _verdict(extracted: str | None, correct: bool) -> str:
    if extracted is None:
        return "unparsed"
    return "right" if correct else "wrong"
