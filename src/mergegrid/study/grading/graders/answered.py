"""Graders of questions with one right answer: a number, a formula, a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.errors import DataError
from mergegrid.study.grading.answers import latex, numbers
from mergegrid.study.grading.answers.judgement import Judgement
from mergegrid.study.grading.graders.grader import Answers, Context, Grades, Question, flat, grouped

Judge = Callable[[Mapping[str, Any], str], Judgement]


def grade_numbers(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """GSM8K: the number at the end, by a robust rule and by the paper's."""
    return _grade(lambda each, text: numbers.judge(each["answer"], text), questions, answers)


def grade_formulas(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """MATH: the formula at the end, by a robust rule and by the paper's.

    Raises:
        DataError: a record has no answer.
    """

    def judge(reference: Mapping[str, Any], text: str) -> Judgement:
        gold = reference.get("answer") or latex.boxed(reference["solution"])
        if gold is None:
            raise DataError(
                f"the solution {reference['solution'][:80]!r} has no \\boxed answer; "
                "name the right files, or give records with a column `answer`"
            )
        known = context.verdicts.get({"gold": gold, "text": text})
        if known is None:
            known = asdict(latex.judge(gold, text))
            context.verdicts.add({"gold": gold, "text": text}, known)
        return Judgement(**known)

    return _grade(judge, questions, answers)


def grade_texts(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """Instructions: the whole text, but for white space around it."""
    right = [
        [answer.strip() == question.reference["output"].strip() for answer in each]
        for question, each in zip(questions, answers, strict=True)
    ]
    records = pd.DataFrame(
        {
            "extracted": [answer.strip() for answer in flat(answers)],
            "verdict": ["right" if each else "wrong" for row in right for each in row],
        }
    )
    values = pd.DataFrame({"accuracy": [float(np.mean(each)) for each in right]})
    return Grades(records, values)


def _grade(judge: Judge, questions: Sequence[Question], answers: Answers) -> Grades:
    rows = []
    for question, each in zip(questions, answers, strict=True):
        for answer in each:
            found = judge(question.reference, answer)
            rows.append(
                {
                    "extracted": found.extracted,
                    "verdict": _verdict(found.extracted, found.correct),
                    "paper_extracted": found.paper_extracted,
                    "paper_verdict": _verdict(found.paper_extracted, found.paper_correct),
                }
            )
    records = pd.DataFrame(rows)
    metrics = {
        "accuracy": records["verdict"] == "right",
        "accuracy_paper_rule": records["paper_verdict"] == "right",
        "unparsed": records["verdict"] == "unparsed",
        "unparsed_paper_rule": records["paper_verdict"] == "unparsed",
    }
    values = pd.DataFrame(
        {
            metric: [float(np.mean(each)) for each in grouped(found.tolist(), answers)]
            for metric, found in metrics.items()
        }
    )
    return Grades(records, values)


def _verdict(extracted: str | None, correct: bool) -> str:
    if extracted is None:
        return "unparsed"
    return "right" if correct else "wrong"
