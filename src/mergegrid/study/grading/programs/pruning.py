"""Remove a solution's own tests: what its function does not need and what may stop the program.

    import math                                     import math
    def area(r): return math.pi * r * r     ->      def area(r): return math.pi * r * r
    print(area(float(input())))

A top-level statement is *idle* if it neither defines nor mutates anything that the requested
function reads. Idle statements stay, except:

- tests and scripts: an `assert`, a `print`, an `input`, an exit, `unittest` or `doctest`, the name
  `__name__`, a call of the requested function or with it as an argument, and any use of a function
  or class that does one of these;
- expressions and annotations without effect, which may be prose that happens to be valid Python;
- statements that would fail: reads of undefined names, imports from outside the standard library.
"""

import ast
from collections.abc import Collection, Mapping, Sequence

from mergegrid.study.grading.programs.names import (
    BUILTINS,
    bound_names,
    class_body_names,
    executed_nodes,
    free_names,
    imports_only_stdlib,
    is_import,
    may_mutate_arguments,
    mutated_names,
    names_changed_by_call,
    names_passed_to,
    read_names,
    root_name,
)
from mergegrid.study.grading.programs.syntax import DEFINITIONS, FUNCTIONS, first_line

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_SCRIPT_NAMES = {"print", "pprint", "input", "exit", "quit", "help", "breakpoint"}
_SCRIPT_NAMES |= {"__name__", "SystemExit"}
_TEST_MODULES = {"doctest", "unittest", "pytest", "pdb", "timeit"}
_PROCESS_ATTRIBUTES = {"exit", "_exit", "abort", "stdin", "argv"}


def without_self_tests(
    program: str, tree: ast.Module, names: Collection[str], known: Collection[str], start: int = 0
) -> str:
    """Remove the statements that may stop a program and that its functions do not need.

    Args:
        program: The source text.
        tree: Its syntax tree.
        names: The requested functions; empty for all functions and classes.
        known: Names that are defined elsewhere.
        start: Number of lines at the beginning that are kept as they are.

    Returns:
        The program up to the last statement that is kept.
    """
    removable = [statement for statement in tree.body if first_line(statement) > start]
    requested = set(names) or set(_definitions(removable, DEFINITIONS))
    dropped = _dropped(tree.body, removable, requested, set(known))
    kept = [statement for statement in tree.body if statement not in dropped]
    end = max([start, *(statement.end_lineno or 0 for statement in kept)])
    lines = program.split("\n")[:end]
    for statement in reversed(removable):
        if statement in dropped and first_line(statement) <= end:
            _remove(lines, statement)
    return "\n".join(lines)


def _dropped(
    body: Sequence[ast.stmt], removable: Sequence[ast.stmt], requested: set[str], known: set[str]
) -> list[ast.stmt]:
    needed = _needed(body, requested)
    idle = [statement for statement in removable if statement not in needed]
    scripts = _script_names(body, requested)
    dropped = [
        statement
        for statement in idle
        if _is_test(statement, requested, scripts) or _has_no_effect(statement)
    ]
    while True:
        kept = [statement for statement in body if statement not in dropped]
        defined = bound_names(*kept) | known | BUILTINS
        failing = [
            statement for statement in idle if statement in kept and _would_fail(statement, defined)
        ]
        if not failing:
            return dropped
        dropped += failing


def _needed(body: Sequence[ast.stmt], requested: set[str]) -> list[ast.stmt]:
    """Return the requested functions and the statements that they depend on."""
    functions = _definitions(body, FUNCTIONS)
    effects = [bound_names(statement) | mutated_names(statement) for statement in body]
    # A function that the requested ones call takes effect when they run, so a top-level call of
    # it is not needed for that.
    helpers = functions.keys() - requested - free_names(*_acting_on(requested, body, effects))
    mutators = {
        name for name in functions.keys() - requested if may_mutate_arguments(functions[name])
    }
    for statement, effect in zip(body, effects, strict=True):
        if not isinstance(statement, DEFINITIONS):
            called = _called(statement, functions) & helpers
            effect.update(*(names_changed_by_call(functions[name], mutators) for name in called))
            # A function that is passed to another one is not mutated by it.
            effect.update(names_passed_to(mutators, statement) - functions.keys())
    return _acting_on(requested, body, effects)


def _definitions(
    body: Sequence[ast.stmt], kinds: tuple[type[_Definition], ...]
) -> dict[str, ast.stmt]:
    return {statement.name: statement for statement in body if isinstance(statement, kinds)}


def _called(statement: ast.stmt, functions: Mapping[str, ast.stmt]) -> set[str]:
    """Return the functions that a statement calls, directly or through others."""
    called: set[str] = set()
    new = read_names(statement) & functions.keys()
    while new:
        called |= new
        new = (free_names(*(functions[name] for name in new)) & functions.keys()) - called
    return called


def _acting_on(
    names: set[str], body: Sequence[ast.stmt], effects: Sequence[set[str]]
) -> list[ast.stmt]:
    """Return the statements with an effect on names, or on what such statements use in turn."""
    names = set(names)
    acting: list[ast.stmt] = []
    while True:
        new = [
            statement
            for statement, effect in zip(body, effects, strict=True)
            if effect & names and statement not in acting
        ]
        if not new:
            return acting
        acting += new
        names |= free_names(*new)


def _script_names(body: Sequence[ast.stmt], requested: set[str]) -> set[str]:
    """Return the names of test modules, and of functions and classes that test or may exit."""
    scripts = bound_names(*filter(_imports_tests, body))
    scripts |= {
        statement.name
        for statement in body
        if isinstance(statement, FUNCTIONS)
        and any(map(_is_scripting, executed_nodes(*statement.body)))
    }
    used = {
        statement.name: {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        for statement in body
        if isinstance(statement, DEFINITIONS)
    }
    while new := {
        name for name in used if name not in scripts and used[name] & (scripts | requested)
    }:
        scripts |= new
    return scripts


def _is_test(statement: ast.stmt, requested: set[str], scripts: set[str]) -> bool:
    if isinstance(statement, FUNCTIONS):
        return False
    if is_import(statement):
        return _imports_tests(statement)
    for node in executed_nodes(statement):
        match node:
            case ast.Call(func=function, args=arguments) if any(
                isinstance(node, ast.Name) and node.id in requested
                for node in [function, *arguments]
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
            return all(alias.name.partition(".")[0] in _TEST_MODULES for alias in names)
        case ast.ImportFrom(module=str(module)):
            return module.partition(".")[0] in _TEST_MODULES
    return False


def _is_scripting(node: ast.AST) -> bool:
    match node:
        case ast.Assert():
            return True
        case ast.Name(id=name):
            return name in _SCRIPT_NAMES
        case ast.Call(func=ast.Name(id="open"), args=[ast.Constant(value=0), *_]):
            return True
        case ast.Attribute(attr=name) if name in _PROCESS_ATTRIBUTES:
            return root_name(node) in ("sys", "os")
    return False


def _has_no_effect(statement: ast.stmt) -> bool:
    match statement:
        case ast.AnnAssign(value=None):
            return True
        case ast.Expr(value=value):
            effects = (ast.Call, ast.Await, ast.NamedExpr)
            is_text = isinstance(value, ast.Constant)
            return not is_text and not any(isinstance(n, effects) for n in executed_nodes(value))
    return False


def _would_fail(statement: ast.stmt, defined: set[str]) -> bool:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return not imports_only_stdlib(statement)
    return bool(read_names(statement) - defined - class_body_names(statement))


def _remove(lines: list[str], statement: ast.stmt) -> None:
    """Remove a statement in place; where others share its lines, replace it by `pass`."""
    first, last = first_line(statement) - 1, (statement.end_lineno or 0) - 1
    head = lines[first].encode()[: statement.col_offset].decode()
    tail = lines[last].encode()[statement.end_col_offset :].decode().strip()
    if not head.strip() and (not tail or tail.startswith("#")):
        del lines[first : last + 1]
    else:
        lines[first : last + 1] = [f"{head}pass{tail}"]
