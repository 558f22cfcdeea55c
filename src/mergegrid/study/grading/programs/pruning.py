"""A solution without its own tests: what its function does not need, and what may stop a program.

A statement at the left margin is *idle* when it neither defines nor changes anything that the
function asked for reads. Idle statements stay, but for these:

- tests and scripts: an `assert`, a `print`, an `input`, an exit, `unittest` or `doctest`, the name
  `__name__`, a call of the function itself or with it, and the use of a function or class that
  does one of these;
- expressions and annotations without effect, which may be prose that is Python by chance;
- what cannot run: a read of a name that nothing defines, an import of a package that is not there.
"""

import ast
from collections.abc import Collection, Mapping, Sequence

from mergegrid.study.grading.programs.names import (
    BUILTINS,
    arguments_of,
    bound,
    changed,
    changed_by,
    changes_arguments,
    is_import,
    is_installed,
    needs,
    reads,
    root_name,
    running,
)
from mergegrid.study.grading.programs.syntax import first_line

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_SCRIPTING = {
    "print",
    "pprint",
    "input",
    "exit",
    "quit",
    "help",
    "breakpoint",
    "__name__",
    "SystemExit",
}
_TESTING = {"doctest", "unittest", "pytest", "pdb", "timeit"}
_OF_A_PROCESS = {"exit", "_exit", "abort", "stdin", "argv"}


def without_own_tests(
    program: str, tree: ast.Module, names: Collection[str], known: Collection[str], start: int = 0
) -> str:
    """A program without the statements that may stop it and that its functions do not need.

    Args:
        program: The program.
        tree: Its syntax tree.
        names: The functions asked for; none stands for all functions and classes.
        known: Names that are defined elsewhere.
        start: Lines at the beginning that stay as they are.

    Returns:
        The program up to its last statement that stays.
    """
    every = [each for each in tree.body if first_line(each) > start]
    asked = set(names) or {each.name for each in every if isinstance(each, _DEFINITIONS)}
    dropped = _dropped(tree.body, every, asked, set(known))
    end = max([start, *(each.end_lineno or 0 for each in tree.body if each not in dropped)])
    lines = program.split("\n")[:end]
    for statement in reversed(every):
        if statement in dropped and first_line(statement) <= end:
            _remove(lines, statement)
    return "\n".join(lines)


def _dropped(
    body: Sequence[ast.stmt], every: Sequence[ast.stmt], asked: set[str], known: set[str]
) -> list[ast.stmt]:
    functions = {each.name: each for each in body if isinstance(each, _FUNCTIONS)}
    needed = _needed(body, functions, asked)
    idle = [each for each in every if each not in needed]
    scripts = _scripts(body, asked)
    dropped = [each for each in idle if _is_test(each, asked, scripts) or _has_no_effect(each)]
    while True:
        left = [each for each in body if each not in dropped]
        defined = bound(*left) | known | BUILTINS
        fail = [each for each in idle if each in left and _cannot_run(each, defined)]
        if not fail:
            return dropped
        dropped += fail


def _needed(
    body: Sequence[ast.stmt], functions: Mapping[str, ast.stmt], asked: set[str]
) -> list[ast.stmt]:
    """The statements that the functions asked for depend on, and those functions."""
    effects = [bound(each) | changed(each) for each in body]
    found = _reached(body, effects, asked)
    # What is done by a function that they call themselves is done when they are called.
    others = functions.keys() - asked - needs(*found)
    fillers = {name for name in functions.keys() - asked if changes_arguments(functions[name])}
    for statement, effect in zip(body, effects, strict=True):
        if not isinstance(statement, _DEFINITIONS):
            called = _called(statement, functions) & others
            effect.update(*(changed_by(functions[each], fillers) for each in called))
            # A function that is given to another one is not changed by it.
            effect.update(arguments_of(fillers, statement) - functions.keys())
    return _reached(body, effects, asked)


def _called(statement: ast.stmt, functions: Mapping[str, ast.stmt]) -> set[str]:
    """The functions that a statement calls, be it by way of others."""
    found: set[str] = set()
    new = reads(statement) & functions.keys()
    while new:
        found |= new
        new = (needs(*(functions[each] for each in new)) & functions.keys()) - found
    return found


def _reached(
    body: Sequence[ast.stmt], effects: Sequence[set[str]], asked: set[str]
) -> list[ast.stmt]:
    """The statements that act on names asked for, or on what those that do so read."""
    wanted = set(asked)
    found: list[ast.stmt] = []
    while True:
        new = [
            statement
            for statement, effect in zip(body, effects, strict=True)
            if effect & wanted and statement not in found
        ]
        if not new:
            return found
        found += new
        wanted |= needs(*new)


def _scripts(body: Sequence[ast.stmt], asked: set[str]) -> set[str]:
    """The names of test modules, and of functions and classes that test or may stop a program."""
    found = {name for each in body if _imports_tests(each) for name in bound(each)}
    found |= {
        each.name
        for each in body
        if isinstance(each, _FUNCTIONS) and any(map(_is_scripting, running(*each.body)))
    }
    read = {
        each.name: {node.id for node in ast.walk(each) if isinstance(node, ast.Name)}
        for each in body
        if isinstance(each, _DEFINITIONS)
    }
    while new := {name for name in read if name not in found and read[name] & (found | asked)}:
        found |= new
    return found


def _is_test(statement: ast.stmt, asked: set[str], scripts: set[str]) -> bool:
    if isinstance(statement, _FUNCTIONS):
        return False
    if is_import(statement):
        return _imports_tests(statement)
    for node in running(statement):
        match node:
            case ast.Call(func=function, args=given) if any(
                isinstance(each, ast.Name) and each.id in asked for each in [function, *given]
            ):
                return True
            case ast.Name(id=name) if name in scripts:
                return True
        if _is_scripting(node):
            return True
    return False


def _imports_tests(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import(names=names):
            return all(each.name.partition(".")[0] in _TESTING for each in names)
        case ast.ImportFrom(module=str(module)):
            return module.partition(".")[0] in _TESTING
    return False


def _is_scripting(node: ast.AST) -> bool:
    match node:
        case ast.Assert():
            return True
        case ast.Name(id=name):
            return name in _SCRIPTING
        case ast.Call(func=ast.Name(id="open"), args=[ast.Constant(value=0), *_]):
            return True
        case ast.Attribute(attr=name) if name in _OF_A_PROCESS:
            return root_name(node) in ("sys", "os")
    return False


def _has_no_effect(statement: ast.stmt) -> bool:
    match statement:
        case ast.AnnAssign(value=None):
            return True
        case ast.Expr(value=value):
            acts = (ast.Call, ast.Await, ast.NamedExpr)
            is_text = isinstance(value, ast.Constant)
            return not is_text and not any(isinstance(node, acts) for node in running(value))
    return False


def _cannot_run(statement: ast.stmt, defined: set[str]) -> bool:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return not is_installed(statement)
    own = {
        name
        for each in running(statement)
        if isinstance(each, ast.ClassDef)
        for name in bound(*each.body)
    }
    return bool(reads(statement) - defined - own)


def _remove(lines: list[str], statement: ast.stmt) -> None:
    """Take a statement out of lines, and leave a `pass` where others share its lines."""
    first, last = first_line(statement) - 1, (statement.end_lineno or 0) - 1
    head = lines[first].encode()[: statement.col_offset].decode()
    tail = lines[last].encode()[statement.end_col_offset :].decode().strip()
    if not head.strip() and (not tail or tail.startswith("#")):
        del lines[first : last + 1]
    else:
        lines[first : last + 1] = [f"{head}pass{tail}"]
