"""MBPP: Python functions with three tests each (arXiv 2108.07732); the test split is ids 11 to 510.

The sanitized records have `prompt` for `text`, and `test_imports` for `test_setup_code`.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mergegrid.study.tasks.benchmarks.question import BenchmarkRecord, Question, numbered


def read(records: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Read records with `task_id`, `text` and `test_list`; the model is shown the tests."""
    questions = []
    for record in numbered("mbpp", records):
        text, tests = record.text("text", "prompt"), _tests(record)
        values = {
            "task_id": record.value("task_id"),
            "text": text,
            "test_list": tests,
            "code": record.optional("code"),
            "test_setup_code": _setup_code(record),
        }
        instruction = "\n".join([text, "Test examples:", *tests])
        questions.append(Question(record.text("task_id"), instruction, values))
    return questions


def _tests(record: BenchmarkRecord) -> list[str]:
    """Return the tests: a list of programs, a list written as text, or one program."""
    value = _as_list(record.value("test_list"))
    programs = _programs(record, "test_list", [value] if isinstance(value, str) else value)
    tests = [program for program in programs if program.strip()]
    tree = record.tests("test_list", "\n".join(tests))
    if not any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree)):
        raise record.wrong("test_list", value, "asserts nothing, so every program would pass")
    return tests


def _setup_code(record: BenchmarkRecord) -> str:
    """Return the program that runs before the tests."""
    imports = _as_list(record.values.get("test_imports"))
    lines = _programs(record, "test_imports", imports) if imports else []
    setup = record.optional("test_setup_code")
    program = "\n".join([*lines, *([setup] if setup else [])])
    record.python("test_setup_code", program)
    return program


def _programs(record: BenchmarkRecord, name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(program, str) for program in value):
        raise record.wrong(name, value, "is not a list of texts")
    return value


def _as_list(value: Any) -> Any:
    """Convert an array, a tuple, or a list written as text to a list; keep other values."""
    if isinstance(value, str) and value.strip().startswith(("[", "(")):
        # JSON, or Python, as which pandas writes a list into a CSV file.
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return _as_list(parse(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value
