import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.study.grading.programs.syntax import longest_beginning, parse, returns, runs

FUNCTION = "def f(x):\n    if x:\n        return 1\n    return 2"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (FUNCTION, FUNCTION),
        (FUNCTION + "\nx = (", FUNCTION),
        (FUNCTION + "\nfoo bar\n" + FUNCTION, FUNCTION),
        # Cut inside a function, where it may go on, and where it cannot.
        ("y = 1\ndef f(x):\n    if x:\n        return 1\n    return (", "y = 1"),
        (FUNCTION + "\n    return (", FUNCTION),
        ("if x:\n    y = 1\nelse", ""),
        ("y = 1\nreturn y", "y = 1"),
        ("it's", ""),
        ("", ""),
    ],
)
def test_the_longest_beginning_cuts_no_statement(text, whole):
    assert longest_beginning(text).rstrip() == whole


def test_a_text_may_continue_other_code():
    assert longest_beginning("    return 1\n\nfoo bar", "def f():\n") == "    return 1\n"
    assert longest_beginning("foo bar", "def f():\n    'doc'\n") == ""


def test_runs_are_the_pieces_of_code_between_prose():
    text = f"It's this:\n\nimport re\n\nThat's\n\n{FUNCTION}\n\nand that is it."
    assert [each.strip() for each in runs(text)] == ["import re", FUNCTION]


@given(st.text("ab()[]{}'\"\\\n :=,.#defrtun", max_size=60))
def test_the_longest_beginning_is_a_beginning_that_compiles(text):
    found = longest_beginning(text)
    assert text.startswith(found)
    assert parse(found) is not None


WORDS = ["a", "(", ")", "[", "]", "'", '"""', "\\", "\n", "\n    ", " ", ":", "=", ",", "#"]
WORDS += ["\nif a:", "\ndef f():", "\n    return a", "\nelse:", "\n# b", "@a"]


@given(st.lists(st.sampled_from(WORDS), max_size=20).map("".join))
def test_every_longer_beginning_that_compiles_cuts_a_statement(text):
    found = longest_beginning(text)
    lines = text.split("\n")
    for count in range(found.count("\n") + 2 if found else 1, len(lines) + 1):
        rest = next((line for line in lines[count:] if line.strip()), "")
        tree = parse("\n".join(lines[:count]))
        if any(line.strip() for line in lines[found.count("\n") + bool(found) : count]) and tree:
            assert rest.startswith((" ", "else")), (found, count)
            assert hasattr(tree.body[-1], "body"), (found, count)


@pytest.mark.parametrize("lines", [["[1,"], ["\\"], ["def f(:"], ["It's (here)"], ["("] * 5])
def test_texts_of_a_model_that_does_not_stop_take_no_minutes(lines):
    assert longest_beginning("\n".join(lines * 300)) == ""


@pytest.mark.parametrize(
    ("code", "does"),
    [
        ("def f():\n    return 1", True),
        ("def f():\n    yield 1", True),
        ("def f():\n    return", False),
        ("def f():\n    def g():\n        return 1", False),
        ("def f():\n    for x in y:\n        if x:\n            return x", True),
    ],
)
def test_a_function_returns_by_itself_alone(code, does):
    assert returns(ast.parse(code).body[0]) == does
