"""Assemble the program that decides whether an answer solves a problem: its code, then the tests.

def add(a, b):               the extracted code
    return a + b

assert add(1, 2) == 3        the tests of the problem (MBPP), or
check(add)                   a call of the problem's test function (HumanEval)
"""

import ast
from collections.abc import Mapping
from typing import Any

from mergegrid.study.grading.programs.extraction import (
    extract_code,
    extract_completion,
    future_imports_first,
    without_future_imports,
)
from mergegrid.study.grading.programs.names import BUILTINS, bound_names
from mergegrid.study.grading.programs.syntax import statements


def humaneval_completion(problem: Mapping[str, str], answer: str) -> str:
    """Return what follows the prompt of a HumanEval problem: its function again, or only a body."""
    completion = extract_completion(problem["prompt"], problem["entry_point"], answer)
    # These are allowed only at the top of a program, where the prompt stands.
    return without_future_imports(completion)


def humaneval_program(problem: Mapping[str, str], answer: str) -> str:
    """Return the program that succeeds if an answer solves a problem of HumanEval.

    Args:
        problem: A record with `prompt`, `test` and the name of the function, `entry_point`.
        answer: The model's text.
    """
    prompt, name = problem["prompt"], problem["entry_point"]
    program = future_imports_first(prompt + extract_completion(prompt, name, answer))
    return "\n".join([program, "", problem["test"], f"check({name})\n"])


def mbpp_program(problem: Mapping[str, Any], answer: str, setup: bool = True) -> str:
    """Return the program that succeeds if an answer solves a problem of MBPP.

    Args:
        problem: A record with the tests, `test_list`, and their setup code, `test_setup_code`.
        answer: The model's text.
        setup: Run the setup code. Without it, as in bigcode-evaluation-harness, problem 367 cannot
            be solved.
    """
    setup_code = problem["test_setup_code"]
    code = extract_code(answer, names_under_test(problem), setup_code)
    # The empty line keeps a backslash at the end of the code from swallowing a test.
    return "\n".join([code, "", *([setup_code] if setup else []), *problem["test_list"], ""])


def names_under_test(problem: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the functions and classes that the tests of an MBPP problem call and do not define.

    Built-in functions count only if the tests call nothing else: then the problem asks for a
    reimplementation, as of `sum` in problem 126.
    """
    body = statements("\n".join([problem.get("test_setup_code", ""), *problem["test_list"]]))
    called = {
        node.func.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    called -= bound_names(*body)
    return tuple(sorted(called - BUILTINS or called))
