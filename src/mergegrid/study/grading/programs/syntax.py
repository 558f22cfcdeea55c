r"""Find valid Python inside a text.

longest_valid_prefix("x = 1\nSet x to 1.")   -> "x = 1"
code_pieces("Set it:\nx = 1\nAnd so on.\ny = 2") -> ["x = 1", "y = 2"]
"""

import ast
import re
import tokenize
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)

# A line that does not compile alone can only start code if later lines may complete it.
_MAY_CONTINUE = re.compile(r"[:(\[{\\@]|\"\"\"|'''")
_CONTINUATION = re.compile(r"[ \t]|(?:else|elif|except|finally)\b")
_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def parse(code: str) -> ast.Module | None:
    """Return the syntax tree of code that compiles, else None."""
    try:
        return _compiled(code)
    except _PARSE_ERRORS:
        return None


def statements(code: str) -> list[ast.stmt]:
    """Return the top-level statements of code, or an empty list if it does not compile."""
    tree = parse(code)
    return tree.body if tree else []


def longest_valid_prefix(text: str, before: str = "") -> str:
    """Return the longest prefix of a text that compiles and does not split a statement.

    The prefix ends between two statements at the left margin. It may also end inside a function,
    after a `return` or `raise` that is always reached, because no later line could change it.

    Args:
        text: Code, possibly truncated or followed by prose.
        before: Code that the text continues, ending with a line break; not part of the result.
    """
    lines = (before + text).split("\n")
    first = before.count("\n")
    count = len(lines)
    while count > first:
        try:
            tree = _compiled("\n".join(lines[:count]))
        except SyntaxError as error:
            # No prefix that includes the line of the error compiles either.
            line = error.lineno or count
            if "was never closed" in error.msg:
                line = min(line, _first_unclosed(lines[:count]))
            count = min(count, line) - 1
            while count > first and lines[count - 1].strip() == "\\":
                count -= 1
            continue
        except _PARSE_ERRORS:
            count = min(count, _first_unclosed(lines[:count])) - 1
            continue
        rest = next((line for line in lines[count:] if line.strip()), "")
        if not tree.body or not _CONTINUATION.match(rest) or _is_complete(tree.body[-1]):
            return "\n".join(lines[first:count])
        count = first_line(tree.body[-1]) - 1
    return ""


def code_pieces(text: str) -> list[str]:
    """Return the pieces of code that start at the left margin of a text, in order."""
    lines = text.split("\n")
    pieces, position = [], 0
    while position < len(lines):
        code = ""
        if _may_start(lines[position]):
            code = longest_valid_prefix("\n".join(lines[position:]))
        if code:
            pieces.append(code)
        position += code.count("\n") + 1
    return pieces


def first_line(statement: ast.stmt) -> int:
    """Return the number of a statement's first line, counting its decorators."""
    decorators: Sequence[ast.expr] = getattr(statement, "decorator_list", ())
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def returns_a_value(function: ast.stmt) -> bool:
    """Return whether a function returns or yields a value, ignoring functions nested in it."""
    pending = list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom)) and node.value is not None:
            return True
        if not isinstance(node, (*DEFINITIONS, ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))
    return False


def _first_unclosed(lines: Sequence[str]) -> int:
    """Return the line number of the first unclosed bracket, or of the last line."""
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
        # Rejects what the grammar alone allows, such as a `return` outside a function.
        compile(tree, "answer", "exec", dont_inherit=True)
    return tree


def _may_start(line: str) -> bool:
    if not line.strip() or line[0] in " \t":
        return False
    return _MAY_CONTINUE.search(line) is not None or parse(line) is not None


def _is_complete(statement: ast.stmt) -> bool:
    """Return whether no indented line after a statement could change what it does."""
    if isinstance(statement, FUNCTIONS):
        return _never_falls_through(statement.body)
    return not isinstance(statement, ast.Match) and not hasattr(statement, "body")


def _never_falls_through(body: Sequence[ast.stmt]) -> bool:
    """Return whether every path through a block ends in a `return` or `raise`."""
    match body[-1]:
        case ast.Return() | ast.Raise():
            return True
        case ast.If(body=then, orelse=[_, *_] as otherwise):
            return _never_falls_through(then) and _never_falls_through(otherwise)
        case ast.With(body=inner):
            return _never_falls_through(inner)
    return False
