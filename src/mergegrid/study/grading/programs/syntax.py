"""Python inside a text: where it starts, and how much of it is whole."""

import ast
import re
import tokenize
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

# A line that does not compile alone can only start code if more lines may complete it.
_MAY_GO_ON = re.compile(r"[:(\[{\\@]|\"\"\"|'''")
_GOES_ON = re.compile(r"[ \t]|(?:else|elif|except|finally)\b")
_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def parse(code: str) -> ast.Module | None:
    """The syntax tree of code that compiles, else None."""
    try:
        return _compiled(code)
    except _ERRORS:
        return None


def longest_beginning(text: str, before: str = "") -> str:
    """The longest beginning of a text that compiles and cuts no statement in two.

    A cut lies between two statements at the left margin. It may also lie inside a function, behind
    a `return` or `raise` that ends the function in any case: what follows there is never reached.

    Args:
        text: Code, whole or cut off, perhaps followed by prose.
        before: Code that the text continues, ending with a line break; not part of the result.
    """
    lines = (before + text).split("\n")
    first = before.count("\n")
    count = len(lines)
    while count > first:
        try:
            tree = _compiled("\n".join(lines[:count]))
        except SyntaxError as error:
            # No beginning that holds the line of the error compiles either.
            line = error.lineno or count
            if "was never closed" in error.msg:
                line = min(line, _first_open(lines[:count]))
            count = min(count, line) - 1
            while count > first and lines[count - 1].strip() == "\\":
                count -= 1
            continue
        except _ERRORS:
            count = min(count, _first_open(lines[:count])) - 1
            continue
        rest = next((line for line in lines[count:] if line.strip()), "")
        if not tree.body or not _GOES_ON.match(rest) or _is_complete(tree.body[-1]):
            return "\n".join(lines[first:count])
        count = first_line(tree.body[-1]) - 1
    return ""


def runs(text: str) -> list[str]:
    """The pieces of code that start at the left margin of a text, in order."""
    lines = text.split("\n")
    found, at = [], 0
    while at < len(lines):
        code = longest_beginning("\n".join(lines[at:])) if _may_start(lines[at]) else ""
        if code:
            found.append(code)
        at += code.count("\n") + 1
    return found


def first_line(statement: ast.stmt) -> int:
    """The number of the line where a statement starts, its decorators included."""
    decorators: Sequence[ast.expr] = getattr(statement, "decorator_list", ())
    return min([statement.lineno, *(each.lineno for each in decorators)])


def returns(function: ast.stmt) -> bool:
    """Whether a function returns or yields something, apart from functions inside it."""
    rest = list(ast.iter_child_nodes(function))
    while rest:
        node = rest.pop()
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom)) and node.value is not None:
            return True
        if not isinstance(node, (*_DEFINITIONS, ast.ClassDef, ast.Lambda)):
            rest.extend(ast.iter_child_nodes(node))
    return False


def _first_open(lines: Sequence[str]) -> int:
    """The number of the line with the first bracket that is not closed, or of the last line."""
    opened: list[int] = []
    with suppress(tokenize.TokenError, IndentationError):
        for token in tokenize.generate_tokens(iter([f"{line}\n" for line in lines]).__next__):
            if token.type == tokenize.OP and token.string in "([{":
                opened.append(token.start[0])
            elif token.type == tokenize.OP and token.string in ")]}" and opened:
                opened.pop()
    return opened[0] if opened else len(lines)


@lru_cache(maxsize=64)
def _compiled(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(code)
        # Finds what the grammar alone allows, such as a `return` outside of functions.
        compile(tree, "answer", "exec", dont_inherit=True)
    return tree


def _may_start(line: str) -> bool:
    if not line.strip() or line[0] in " \t":
        return False
    return _MAY_GO_ON.search(line) is not None or parse(line) is not None


def _is_complete(statement: ast.stmt) -> bool:
    """Whether no indented line behind a statement can change what it does."""
    if isinstance(statement, _DEFINITIONS):
        return _never_ends(statement.body)
    return not isinstance(statement, ast.Match) and not hasattr(statement, "body")


def _never_ends(body: Sequence[ast.stmt]) -> bool:
    """Whether control never reaches the end of a block, because of a `return` or `raise`."""
    match body[-1]:
        case ast.Return() | ast.Raise():
            return True
        case ast.If(body=then, orelse=[_, *_] as otherwise):
            return _never_ends(then) and _never_ends(otherwise)
        case ast.With(body=inner):
            return _never_ends(inner)
    return False
