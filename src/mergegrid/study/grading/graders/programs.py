"""Graders of programs: HumanEval and MBPP, run in a sandbox."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from mergegrid.study.grading.graders.grader import (
    Context,
    Grades,
    Samples,
    grouped,
    with_references,
)
from mergegrid.study.grading.programs.assembly import (
    humaneval_completion,
    humaneval_program,
    mbpp_program,
    names_under_test,
)
from mergegrid.study.grading.programs.estimate import pass_at_k
from mergegrid.study.grading.programs.extraction import extract_code
from mergegrid.study.grading.programs.runner import run_all
from mergegrid.study.grading.programs.sandbox import Outcome, open_sandbox
from mergegrid.study.tasks.benchmarks.question import Question

logger = logging.getLogger(__name__)


def grade_humaneval(
    context: Context, name: str, questions: Sequence[Question], samples: Samples
) -> Grades:
    """Grade answers to HumanEval, whole functions or bodies, by the hidden tests."""
    pairs = with_references(questions, samples)
    extracted = [humaneval_completion(reference, answer) for reference, answer in pairs]
    programs = [humaneval_program(reference, answer) for reference, answer in pairs]
    return _grade(context, name, samples, extracted, {"": programs})


def grade_mbpp(
    context: Context, name: str, questions: Sequence[Question], samples: Samples
) -> Grades:
    """Grade answers to MBPP by its tests, also without the setup code, as other harnesses do."""
    extracted, programs, without_setup = [], [], []
    for reference, answer in with_references(questions, samples):
        setup = reference["test_setup_code"]
        extracted.append(extract_code(answer, names_under_test(reference), setup))
        programs.append(mbpp_program(reference, answer))
        # Without setup code both are one program, which runs once.
        without_setup.append(
            mbpp_program(reference, answer, setup=False) if setup else programs[-1]
        )
    variants = {"": programs, "_without_setup": without_setup}
    return _grade(context, name, samples, extracted, variants)


def _grade(
    context: Context,
    name: str,
    samples: Samples,
    extracted: Sequence[str],
    variants: Mapping[str, Sequence[str]],
) -> Grades:
    """Grade programs.

    Args:
        context: The benchmark, the cached verdicts and the number of workers.
        name: The model, for messages.
        samples: Its answers.
        extracted: The code of every answer.
        variants: The program of every answer, by suffix of the metrics; records describe the first
            variant, whose suffix is empty.
    """
    every_program = [program for programs in variants.values() for program in programs]
    outcomes = _outcomes(context, name, every_program)
    values: dict[str, list[float]] = {}
    for suffix, programs in variants.items():
        passed = [outcomes[program].status == "passed" for program in programs]
        for k in context.request.benchmark.pass_at:
            values[f"pass@{k}{suffix}"] = [pass_at_k(row, k) for row in grouped(passed, samples)]
    recorded = [outcomes[program] for program in variants[""]]
    records = pd.DataFrame(
        {
            "extracted": extracted,
            "verdict": [outcome.status for outcome in recorded],
            "detail": [outcome.detail for outcome in recorded],
        }
    )
    return Grades(records, pd.DataFrame(values))


def _outcomes(context: Context, name: str, programs: Sequence[str]) -> dict[str, Outcome]:
    """Return the outcomes of programs. Equal programs run once, cached ones not at all.

    An outcome that a slow machine may have caused is used now, but not cached.
    """
    verdicts = context.verdicts
    outcomes: dict[str, Outcome] = {}
    missing: list[str] = []
    for program in dict.fromkeys(programs):
        cached = verdicts.get(_cache_key(program))
        if cached is None:
            missing.append(program)
        else:
            outcomes[program] = Outcome(**cached)
    if missing:
        sandbox = open_sandbox(context.request.unsafe_execution)
        new = run_all(missing, sandbox, context.workers, f"programs of {name}")
        for program, outcome in zip(missing, new, strict=True):
            outcomes[program] = outcome
            if outcome.lasting:
                verdicts.add(_cache_key(program), asdict(outcome))
        if late := sum(not outcome.lasting for outcome in new):
            logger.warning(
                "%d programs of %s exceeded the wall-clock limit and count as failures. A busy "
                "machine may be the reason, so they run again when this benchmark is rescored",
                *(late, name),
            )
    return outcomes


def _cache_key(program: str) -> dict[str, str]:
    return {"program": program}
