"""Graders of questions with one right answer: a number, a formula or a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.errors import DataError
from mergegrid.extras import require
from mergegrid.study.grading.answers import numbers
from mergegrid.study.grading.answers.answer_grade import AnswerGrade
from mergegrid.study.grading.graders.grader import (
    Context,
    Grades,
    Samples,
    grouped,
    with_references,
)
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
        MissingLibraryError: math-verify is not installed.
    """
    require("math_verify")
    from mergegrid.study.grading.answers import latex  # Imports math-verify.

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
    pairs = with_references(questions, samples)
    right = [answer.strip() == reference["output"].strip() for reference, answer in pairs]
    records = pd.DataFrame(
        {
            "extracted": [answer.strip() for _, answer in pairs],
            "verdict": ["right" if correct else "wrong" for correct in right],
        }
    )
    return Grades(records, _means({"accuracy": right}, samples))


def _grade(
    grade: Callable[[Mapping[str, Any], str], AnswerGrade],
    questions: Sequence[Question],
    samples: Samples,
) -> Grades:
    pairs = with_references(questions, samples)
    grades = [grade(reference, answer) for reference, answer in pairs]
    verdicts = [_verdict(result.extracted, result.correct) for result in grades]
    paper_verdicts = [_verdict(result.paper_extracted, result.paper_correct) for result in grades]
    records = pd.DataFrame(
        {
            "extracted": [result.extracted for result in grades],
            "verdict": verdicts,
            "paper_extracted": [result.paper_extracted for result in grades],
            "paper_verdict": paper_verdicts,
        }
    )
    metrics = {
        "accuracy": [verdict == "right" for verdict in verdicts],
        "accuracy_paper_rule": [verdict == "right" for verdict in paper_verdicts],
        "unparsed": [verdict == "unparsed" for verdict in verdicts],
        "unparsed_paper_rule": [verdict == "unparsed" for verdict in paper_verdicts],
    }
    return Grades(records, _means(metrics, samples))


def _means(metrics: Mapping[str, Sequence[bool]], samples: Samples) -> pd.DataFrame:
    """Average metrics, given per answer, by question."""
    return pd.DataFrame(
        {
            metric: [float(np.mean(group)) for group in grouped(values, samples)]
            for metric, values in metrics.items()
        }
    )


def _verdict(extracted: str | None, correct: bool) -> str:
    if extracted is None:
        return "unparsed"
    return "right" if correct else "wrong"
