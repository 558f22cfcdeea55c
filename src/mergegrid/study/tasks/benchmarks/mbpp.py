"""MBPP: Python functions with three tests each (arXiv 2108.07732); tests are ids 11 to 510.

The sanitized records have `prompt` for `text`, and `test_imports` for `test_setup_code`.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mergegrid.study.tasks.benchmarks.question import Question, Record, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Questions of records with `task_id`, `text` and `test_list`, the tests being shown."""
    found = []
    for record in numbered("mbpp", records):
        text, tests = record.text("text", "prompt"), _tests(record)
        values = {
            "task_id": record.value("task_id"),
            "text": text,
            "test_list": tests,
            "code": record.optional("code"),
            "test_setup_code": _setup(record),
        }
        instruction = "\n".join([text, "Test examples:", *tests])
        found.append(Question(record.text("task_id"), instruction, values))
    return found


def _tests(record: Record) -> list[str]:
    """The tests: a list of programs, also one that is written out as text, or one program."""
    value = _listed(record.value("test_list"))
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise record.wrong("test_list", value, "not a list of texts")
    tests = [each for each in value if each.strip()]
    program = record.tests("test_list", "\n".join(tests))
    if not any(isinstance(each, ast.Assert | ast.Raise) for each in ast.walk(program)):
        raise record.wrong("test_list", value, "no test: it asserts nothing, so all would pass")
    return tests


def _setup(record: Record) -> str:
    """What the tests build on."""
    imports = _listed(record.values.get("test_imports"))
    if imports and (
        not isinstance(imports, list) or not all(isinstance(each, str) for each in imports)
    ):
        raise record.wrong("test_imports", imports, "not a list of texts")
    setup = record.optional("test_setup_code")
    program = "\n".join([*(imports or []), *([setup] if setup else [])])
    record.python("test_setup_code", program)
    return program


def _listed(value: Any) -> Any:
    """A value with what stands for a list made one: an array, a tuple, or its text."""
    if isinstance(value, str) and value.strip().startswith(("[", "(")):
        # As JSON writes a list, and as Python does, which is what pandas leaves in a CSV file.
        for read_text in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return _listed(read_text(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value
