r"""Extract the code from an answer, which may be prose, code or both.

    To add two numbers:
    ```python
    import math
    def add(a, b):             ->   import math
        return a + b                def add(a, b):
    print(add(1, 2))                    return a + b
    ```
    This prints 3.

1. Marked reasoning and everything after the end of the answer are dropped (`passages`).
2. Of the fenced blocks that define the requested function, the last one counts: an answer that
   corrects itself does so further down. A block that is still open at the end may be truncated and
   counts only if no other one does. Outside of blocks the first definition counts, because models
   that do not stop continue with other tasks.
3. A piece of code is the longest prefix that compiles and does not split a statement (`syntax`).
4. Other pieces that define what this one reads, such as helpers and imports, are kept with it, in
   the order of the answer.
5. The solution's own tests are removed (`pruning`). Nothing is repaired or added.

A function is defined at the left margin by a `def`, a class or an import. Assignments define it
only if nothing else does, since a local variable or a usage example may have its name. A method of
a class `Solution` has another interface than the tests call, and fails as in other harnesses.
"""

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import dropwhile
from textwrap import dedent, indent

from mergegrid.study.grading.programs.names import (
    bound_names,
    imports_only_stdlib,
    is_import,
    read_names,
    undefined_names,
)
from mergegrid.study.grading.programs.passages import Passage, indented_groups, readings
from mergegrid.study.grading.programs.pruning import without_self_tests
from mergegrid.study.grading.programs.syntax import (
    DEFINITIONS,
    FUNCTIONS,
    code_pieces,
    first_line,
    longest_valid_prefix,
    parse,
    returns_a_value,
    statements,
)

_FUTURE_IMPORT = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_INDENT = "    "


@lru_cache(maxsize=16)
def extract_code(answer: str, names: tuple[str, ...] = (), setup: str = "") -> str:
    """Extract the code from an answer, or its most likely part if no function is found.

    Args:
        answer: The model's text.
        names: The requested functions; empty for any function.
        setup: Code that runs before the functions are called.
    """
    known = bound_names(*statements(setup))
    solutions = (
        _solution(passages, names, known, assigned=assigned)
        for assigned in (False, True)
        for passages in readings(answer)
    )
    return next((code for code in solutions if code is not None), None) or _fallback(answer)


def extract_completion(prompt: str, name: str, answer: str) -> str:
    """Extract what follows a prompt that begins a function: the whole function again, or its body.

    A body keeps its indentation; if the model dropped that of the first line or of all lines, it
    is restored:

        "return 2 * x"   ->   "    return 2 * x"

    Args:
        prompt: Imports, the signature of the function and its docstring.
        name: The function.
        answer: The model's text.
    """
    known = bound_names(*statements(prompt))
    for passages in readings(answer):
        # A body takes precedence over a function that follows it in the same passage.
        without_body = [passage for passage in passages if not _bodies(prompt, name, passage.text)]
        code = (
            _solution(without_body, (name,), known, prompt)
            or _body(prompt, name, passages)
            or _solution(passages, (name,), known, prompt, assigned=True)
        )
        if code:
            return code
    return indent(dedent(_fallback(answer)), _INDENT)


def future_imports_first(code: str) -> str:
    """Move imports from `__future__` to the top, the only place where Python allows them."""
    lines = [line.rstrip("\n") + "\n" for line in _FUTURE_IMPORT.findall(code)]
    return "".join(lines) + without_future_imports(code)


def without_future_imports(code: str) -> str:
    """Remove imports from `__future__`."""
    return _FUTURE_IMPORT.sub("", code)


def _solution(
    passages: Sequence[Passage],
    names: Collection[str],
    known: Collection[str],
    prompt: str = "",
    assigned: bool = False,
) -> str | None:
    """Return the code that defines the requested functions, its dependencies included."""
    chosen = _defining_piece(passages, names, assigned)
    if chosen is None:
        return None
    code = future_imports_first(_with_dependencies(*chosen, names, set(known)))
    return _pruned(prompt, code, names, known)


def _defining_piece(
    passages: Sequence[Passage], names: Collection[str], assigned: bool
) -> tuple[list[str], int] | None:
    """Return the pieces of code in an answer and the index of the one with the functions.

    Only if no such piece stands at a left margin are indented groups of lines searched.
    """
    numbered = [
        (_precedence(passage, position), piece)
        for position, passage in enumerate(passages)
        for piece in _pieces(passage.text)
    ]
    pieces = [piece for _, piece in numbered]
    for index in sorted(range(len(pieces)), key=lambda index: numbered[index][0]):
        if _defines(pieces[index], names, assigned):
            return pieces, index
    for passage in passages:
        for group in indented_groups(passage.text):
            pieces = code_pieces(dedent(group))
            for index, piece in enumerate(pieces):
                if _defines(piece, names, assigned):
                    return pieces, index
    return None


def _precedence(passage: Passage, position: int) -> tuple[int, int]:
    """Return a sort key: closed blocks from the last to the first, open ones, then other text."""
    if passage.fenced:
        return (0, -position) if passage.closed else (1, position)
    return 2, position


def _pieces(text: str) -> list[str]:
    """Return the pieces of code in a text, which may be indented as a whole."""
    dedented = dedent(text)
    return code_pieces(text) or (code_pieces(dedented) if dedented != text else [])


def _with_dependencies(
    pieces: Sequence[str], chosen: int, names: Collection[str], known: set[str]
) -> str:
    bodies = [statements(piece) for piece in pieces]
    taken = {chosen}
    # The nearest piece before counts; later ones must not redefine the functions.
    others = [*range(chosen - 1, -1, -1)]
    others += [
        index
        for index in range(chosen + 1, len(pieces))
        if not bound_names(*bodies[index]) & set(names)
    ]
    while True:
        body = [statement for index in sorted(taken) for statement in bodies[index]]
        missing = undefined_names(body, known) | (set(names) - bound_names(*body))
        defining = (i for i in others if i not in taken and bound_names(*bodies[i]) & missing)
        new = next(defining, None)
        if new is None:
            return "\n\n\n".join(pieces[index].strip("\n") for index in sorted(taken))
        taken.add(new)


def _pruned(prompt: str, code: str, names: Collection[str], known: Collection[str]) -> str:
    future_imports = "".join(_FUTURE_IMPORT.findall(code))
    program = prompt + without_future_imports(code)
    tree = parse(program)
    if tree is None:
        return code
    program = without_self_tests(program, tree, names, known, start=prompt.count("\n"))
    return future_imports + program.removeprefix(prompt).strip("\n")


def _defines(piece: str, names: Collection[str], assigned: bool) -> bool:
    """Return whether code defines a requested function, with more than its signature.

    Args:
        piece: The code.
        names: The functions; empty for any function.
        assigned: Count assignments and loops as well as definitions and imports.
    """
    for statement in _flattened(statements(piece)):
        if isinstance(statement, DEFINITIONS):
            defines = not names or statement.name in names
        else:
            counts = assigned or is_import(statement)
            defines = counts and bool(bound_names(statement) & set(names))
        if defines and not _is_stub(statement):
            return True
    return False


def _flattened(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and those nested in an `if`, `try` and the like, not in definitions."""
    pending: list[ast.AST] = [*body]
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, DEFINITIONS):
            kinds = (ast.stmt, ast.ExceptHandler, ast.match_case)
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, kinds)]


def _is_stub(statement: ast.stmt) -> bool:
    match statement:
        case ast.FunctionDef(body=body) | ast.AsyncFunctionDef(body=body):
            return all(
                isinstance(inner, ast.Pass)
                or (isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant))
                or (isinstance(inner, ast.Raise) and "NotImplementedError" in read_names(inner))
                for inner in body
            )
        case ast.AnnAssign(value=None):
            return True
        case ast.Import() | ast.ImportFrom():
            return not imports_only_stdlib(statement)
    return False


def _body(prompt: str, name: str, passages: Sequence[Passage]) -> str | None:
    """Return the body of the function that a prompt begins, and the code that follows it."""
    for passage in passages:
        texts = [passage.text, *indented_groups(passage.text)]
        bodies = [body for text in texts for body in _bodies(prompt, name, text)]
        if bodies:
            longest = max(bodies, key=lambda body: body.count("\n"))
            return _pruned(prompt, _before_redefinition(prompt, name, longest), (name,), ())
    return None


def _bodies(prompt: str, name: str, text: str) -> list[str]:
    """Return the ways to read a text, from its first line, as a body that returns a value."""
    text = _without_blank_ends(text)
    # As it is, or with the indentation that its first line or all its lines have lost.
    shapes = [text] if text.startswith(" ") else []
    shapes += [_INDENT + text.lstrip(" "), indent(dedent(text), _INDENT)]
    bodies = [longest_valid_prefix(shape, prompt) for shape in shapes]
    return [body for body in bodies if _returns_a_value(prompt + body, name)]


def _returns_a_value(program: str, name: str) -> bool:
    for statement in statements(program):
        if isinstance(statement, FUNCTIONS) and statement.name == name:
            return returns_a_value(statement)
    return False


def _before_redefinition(prompt: str, name: str, body: str) -> str:
    """Cut a body and what follows it before the first statement that rebinds its function."""
    start = prompt.count("\n")
    for statement in statements(prompt + body):
        line = first_line(statement) - 1
        if line >= start and name in bound_names(statement) and not _wraps(statement, name):
            return "\n".join(body.split("\n")[: line - start])
    return body


def _wraps(statement: ast.stmt, name: str) -> bool:
    """Return whether a statement is like `name = cache(name)`."""
    match statement:
        case ast.Assign(value=ast.Call(args=arguments)):
            return any(getattr(argument, "id", None) == name for argument in arguments)
    return False


def _fallback(answer: str) -> str:
    """Return the likeliest code of an answer without a requested function: a block, or all."""
    passages = next(readings(answer))
    candidates = [*(passage for passage in passages if passage.fenced), *passages]
    text = _without_blank_ends(candidates[0].text) if candidates else ""
    tree = parse(text)
    return without_self_tests(text, tree, (), ()) if tree else text


def _without_blank_ends(code: str) -> str:
    """Remove blank lines at both ends; the first line keeps its indentation."""
    return "\n".join(dropwhile(lambda line: not line.strip(), code.rstrip().split("\n")))
