"""Graders of programs: HumanEval and MBPP, run in a sandbox."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from mergegrid.scoring.graders.grader import Answers, Context, Grades, Question, flat, grouped
from mergegrid.scoring.programs.code import code_of, humaneval_program, mbpp_program
from mergegrid.scoring.programs.estimate import pass_at_k
from mergegrid.scoring.programs.runner import run_all
from mergegrid.scoring.programs.sandbox import Outcome, open_sandbox

logger = logging.getLogger(__name__)


def grade_humaneval(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """HumanEval: whole functions and bodies, against the hidden tests."""
    programs = [
        humaneval_program(question.reference, _spaces(answer))
        for question, each in zip(questions, answers, strict=True)
        for answer in each
    ]
    return _grade(context, name, answers, {"": programs})


def grade_mbpp(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """MBPP: against its tests; besides, without the set-up code that other harnesses leave out."""
    kinds: dict[str, list[str]] = {"": [], "_without_setup": []}
    for question, each in zip(questions, answers, strict=True):
        for answer in each:
            text = _spaces(answer)
            whole = mbpp_program(question.reference, text)
            # Few have set-up code; the others are one program, which runs once.
            has_setup = bool(question.reference["test_setup_code"])
            bare = mbpp_program(question.reference, text, setup=False) if has_setup else whole
            kinds[""].append(whole)
            kinds["_without_setup"].append(bare)
    return _grade(context, name, answers, kinds)


def _grade(
    context: Context, name: str, answers: Answers, kinds: Mapping[str, Sequence[str]]
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
            "extracted": [code_of(_spaces(answer)) for answer in flat(answers)],
            "verdict": [outcome.status for outcome in found],
            "detail": [outcome.detail for outcome in found],
        }
    )
    return Grades(records, pd.DataFrame(values))


def _outcomes(context: Context, name: str, programs: Sequence[str]) -> dict[str, Outcome]:
    """Outcomes of programs: equal ones run once, and known ones not at all.

    Where the machine may have been too slow, the outcome counts now, and is not known afterwards.
    """
    journal = context.journal
    known = {each: journal.get(_key(each)) for each in dict.fromkeys(programs)}
    outcomes = {program: Outcome(**each) for program, each in known.items() if each is not None}
    missing = [program for program, each in known.items() if each is None]
    if missing:
        sandbox = open_sandbox(context.request.unsafe_execution)
        found = run_all(missing, sandbox, context.workers, f"programs of {name}")
        for program, outcome in zip(missing, found, strict=True):
            outcomes[program] = outcome
            if outcome.lasting:
                journal.add(_key(program), asdict(outcome))
        if late := sum(not outcome.lasting for outcome in found):
            logger.warning(
                "%d programs of %s ran out of time by the wall's clock and count as failures, but "
                "a busy machine may be why; they run again when this is scored again",
                *(late, name),
            )
    return outcomes


def _key(program: str) -> dict[str, str]:
    return {"program": program}


def _spaces(answer: str) -> str:
    """Models that were shown tabs answer with tabs; the tests' text has spaces."""
    return answer.replace("\t", "    ")
