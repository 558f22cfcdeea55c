"""Graders of programs: HumanEval and MBPP, run in a sandbox."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from mergegrid.study.grading.graders.grader import Answers, Context, Grades, Question, grouped
from mergegrid.study.grading.programs.code import (
    code_of,
    humaneval_completion,
    humaneval_program,
    mbpp_program,
    names_under_test,
)
from mergegrid.study.grading.programs.estimate import pass_at_k
from mergegrid.study.grading.programs.runner import run_all
from mergegrid.study.grading.programs.sandbox import Outcome, open_sandbox

logger = logging.getLogger(__name__)


def grade_humaneval(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """HumanEval: whole functions and bodies, against the hidden tests."""
    asked = _asked(questions, answers)
    extracted = [humaneval_completion(reference, answer) for reference, answer in asked]
    programs = [humaneval_program(reference, answer) for reference, answer in asked]
    return _grade(context, name, answers, extracted, {"": programs})


def grade_mbpp(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """MBPP: against its tests; besides, without the set-up code that other harnesses leave out."""
    extracted = []
    kinds: dict[str, list[str]] = {"": [], "_without_setup": []}
    for reference, answer in _asked(questions, answers):
        setup = reference["test_setup_code"]
        extracted.append(code_of(answer, names_under_test(reference), setup))
        whole = mbpp_program(reference, answer)
        # Few have set-up code; the others are one program, which runs once.
        kinds[""].append(whole)
        kinds["_without_setup"].append(
            mbpp_program(reference, answer, setup=False) if setup else whole
        )
    return _grade(context, name, answers, extracted, kinds)


def _asked(questions: Sequence[Question], answers: Answers) -> list[tuple[Mapping[str, Any], str]]:
    """Every answer with the record of its question."""
    return [
        (question.reference, answer)
        for question, each in zip(questions, answers, strict=True)
        for answer in each
    ]


def _grade(
    context: Context,
    name: str,
    answers: Answers,
    extracted: Sequence[str],
    kinds: Mapping[str, Sequence[str]],
) -> Grades:
    outcomes = _outcomes(context, name, [each for programs in kinds.values() for each in programs])
    values: dict[str, list[float]] = {}
    for suffix, programs in kinds.items():
        passed = [outcomes[program].status == "passed" for program in programs]
        for k in context.request.benchmark.pass_at:
            values[f"pass@{k}{suffix}"] = [
                pass_at_k([samples], k)[0] for samples in grouped(passed, answers)
            ]
    found = [outcomes[program] for program in kinds[""]]
    records = pd.DataFrame(
        {
            "extracted": extracted,
            "verdict": [outcome.status for outcome in found],
            "detail": [outcome.detail for outcome in found],
        }
    )
    return Grades(records, pd.DataFrame(values))


def _outcomes(context: Context, name: str, programs: Sequence[str]) -> dict[str, Outcome]:
    """Outcomes of programs: equal ones run once, and known ones not at all.

    Where the machine may have been too slow, the outcome counts now, and is not known afterwards.
    """
    verdicts = context.verdicts
    known = {each: verdicts.get(_key(each)) for each in dict.fromkeys(programs)}
    outcomes = {program: Outcome(**each) for program, each in known.items() if each is not None}
    missing = [program for program, each in known.items() if each is None]
    if missing:
        sandbox = open_sandbox(context.request.unsafe_execution)
        found = run_all(missing, sandbox, context.workers, f"programs of {name}")
        for program, outcome in zip(missing, found, strict=True):
            outcomes[program] = outcome
            if outcome.lasting:
                verdicts.add(_key(program), asdict(outcome))
        if late := sum(not outcome.lasting for outcome in found):
            logger.warning(
                "%d programs of %s ran out of time by the wall's clock and count as failures, but "
                "a busy machine may be why; they run again when this is scored again",
                *(late, name),
            )
    return outcomes


def _key(program: str) -> dict[str, str]:
    return {"program": program}
