import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.study.grading.programs.syntax import (
    code_pieces,
    longest_valid_prefix,
    parse,
    returns_a_value,
)

FUNCTION = "def f(x):\n    if x:\n        return 1\n    return 2"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (FUNCTION, FUNCTION),
        (FUNCTION + "\nx = (", FUNCTION),
        (FUNCTION + "\nfoo bar\n" + FUNCTION, FUNCTION),
        # Truncated inside a function, where more may follow and where nothing can.
        ("y = 1\ndef f(x):\n    if x:\n        return 1\n    return (", "y = 1"),
        (FUNCTION + "\n    return (", FUNCTION),
        ("if x:\n    y = 1\nelse", ""),
        ("y = 1\nreturn y", "y = 1"),
        ("it's", ""),
        ("", ""),
    ],
)
def test_the_longest_valid_prefix_splits_no_statement(text, whole):
    assert longest_valid_prefix(text).rstrip() == whole


def test_a_text_may_continue_other_code():
    assert longest_valid_prefix("    return 1\n\nfoo bar", "def f():\n") == "    return 1\n"
    assert longest_valid_prefix("foo bar", "def f():\n    'doc'\n") == ""


def test_pieces_of_code_stand_between_prose():
    text = f"It's this:\n\nimport re\n\nThat's\n\n{FUNCTION}\n\nand that is it."
    assert [piece.strip() for piece in code_pieces(text)] == ["import re", FUNCTION]


@given(st.text("ab()[]{}'\"\\\n :=,.#defrtun", max_size=60))
def test_the_longest_valid_prefix_is_a_prefix_that_compiles(text):
    prefix = longest_valid_prefix(text)
    assert text.startswith(prefix)
    assert parse(prefix) is not None


WORDS = ["a", "(", ")", "[", "]", "'", '"""', "\\", "\n", "\n    ", " ", ":", "=", ",", "#"]
WORDS += ["\nif a:", "\ndef f():", "\n    return a", "\nelse:", "\n# b", "@a"]


@given(st.lists(st.sampled_from(WORDS), max_size=20).map("".join))
def test_every_longer_prefix_that_compiles_splits_a_statement(text):
    prefix = longest_valid_prefix(text)
    lines = text.split("\n")
    for count in range(prefix.count("\n") + 2 if prefix else 1, len(lines) + 1):
        rest = next((line for line in lines[count:] if line.strip()), "")
        tree = parse("\n".join(lines[:count]))
        if any(line.strip() for line in lines[prefix.count("\n") + bool(prefix) : count]) and tree:
            assert rest.startswith((" ", "else")), (prefix, count)
            assert hasattr(tree.body[-1], "body"), (prefix, count)


@pytest.mark.parametrize("lines", [["[1,"], ["\\"], ["def f(:"], ["It's (here)"], ["("] * 5])
def test_repetitive_texts_are_read_in_time(lines):
    assert longest_valid_prefix("\n".join(lines * 300)) == ""


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
def test_a_nested_function_does_not_count_as_returning(code, does):
    assert returns_a_value(ast.parse(code).body[0]) == does
