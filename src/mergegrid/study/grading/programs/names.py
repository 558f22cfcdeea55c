"""Determine which names Python statements bind, read and mutate, from their syntax trees.

total = sum(prices)        binds total; reads sum and prices
cache[key] = total         mutates cache; reads cache, key and total
def f(x): return g(x)      binds f; its free name is g
"""

import ast
import builtins
import sys
from collections.abc import Collection, Iterator

from mergegrid.study.grading.programs.syntax import FUNCTIONS

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "__annotations__"}
"""Names that need no definition."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# Methods that mutate lists, sets, dictionaries and deques.
_METHODS = """
    add append appendleft clear discard extend extendleft insert pop popitem popleft remove reverse
    setdefault sort update
"""
_MUTATING_METHODS = frozenset(_METHODS.split())


def executed_nodes(*nodes: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that execute with a statement: all but the bodies of functions in it."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            pending += _evaluated_at_definition(node)
        else:
            pending += ast.iter_child_nodes(node)


def bound_names(*nodes: ast.AST) -> set[str]:
    """Return the names that statements bind in their own scope."""
    names: set[str] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
                pending += node.decorator_list
                continue
            case ast.Lambda():
                continue
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias():
                names.add(node.asname or node.name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                names.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.MatchMapping(rest=str(name)):
                names.add(name)
        pending += ast.iter_child_nodes(node)
    return names


def mutated_names(*nodes: ast.AST) -> set[str]:
    """Return the names of objects that statements may mutate.

    Counted are `x[0] = 1`, `x.y = 1`, `x.append(1)`, any method called as a statement, as in
    `x.train()`, and decorators, as in `@x.register`.
    """
    names: set[str] = set()
    for node in executed_nodes(*nodes):
        targets: list[ast.expr] = []
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()):
                targets = [node]
            case ast.Subscript(ctx=ast.Store() | ast.Del()):
                targets = [node]
            case ast.Expr(value=ast.Call(func=ast.Attribute() as method)):
                targets = [method]
            case ast.Call(func=ast.Attribute(attr=name) as method) if name in _MUTATING_METHODS:
                targets = [method]
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                targets = [
                    decorator.func if isinstance(decorator, ast.Call) else decorator
                    for decorator in node.decorator_list
                ]
        names |= {root for target in targets if (root := root_name(target))}
    return names


def names_changed_by_call(function: ast.AST, mutators: Collection[str] = ()) -> set[str]:
    """Return the names outside a function that calling it binds or mutates.

    Args:
        function: The definition of the function.
        mutators: Functions that mutate their arguments.
    """
    if not isinstance(function, FUNCTIONS):
        return set()
    declared = _declared_global(function)
    local = (bound_names(*function.body) | _parameters(function)) - declared
    mutated = mutated_names(*function.body) | names_passed_to(mutators, *function.body)
    return declared | (mutated - local)


def may_mutate_arguments(function: ast.AST) -> bool:
    """Return whether a function mutates one of its arguments or passes one on."""
    if not isinstance(function, FUNCTIONS):
        return False
    passed_on = {
        name
        for node in executed_nodes(*function.body)
        if isinstance(node, ast.Call)
        and not (isinstance(node.func, ast.Name) and node.func.id in BUILTINS)
        for name in _argument_names(node)
    }
    return bool((mutated_names(*function.body) | passed_on) & _parameters(function))


def names_passed_to(functions: Collection[str], *nodes: ast.AST) -> set[str]:
    """Return the names of objects that statements pass to some functions."""
    return {
        name
        for node in executed_nodes(*nodes)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in functions
        for name in _argument_names(node)
    }


def read_names(*nodes: ast.AST) -> set[str]:
    """Return the names that statements read when they execute."""
    return {
        node.id
        for node in executed_nodes(*nodes)
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Load, ast.Del))
    }


def free_names(*nodes: ast.AST) -> set[str]:
    """Return the names that statements use, including the free names of functions in them."""
    names: set[str] = set()
    for node in executed_nodes(*nodes):
        if isinstance(node, ast.Name):
            # Stores count too: an augmented assignment reads its target.
            names.add(node.id)
        elif isinstance(node, FUNCTIONS):
            local = bound_names(*node.body) | _parameters(node)
            names |= free_names(*node.body) - local | _declared_global(node)
        elif isinstance(node, ast.Lambda):
            names |= free_names(node.body) - _parameters(node)
    return names


def undefined_names(nodes: Collection[ast.AST], known: set[str]) -> set[str]:
    """Return the names that statements use and neither they, `known` nor Python defines."""
    defined = bound_names(*nodes) | class_body_names(*nodes)
    return free_names(*nodes) - defined - known - BUILTINS


def class_body_names(*nodes: ast.AST) -> set[str]:
    """Return the names that are bound in the bodies of classes."""
    return {
        name
        for node in executed_nodes(*nodes)
        if isinstance(node, ast.ClassDef)
        for name in bound_names(*node.body)
    }


def root_name(node: ast.expr) -> str | None:
    """Return the leftmost name of an expression: `x` for `x.y[0].z`."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def is_import(node: ast.AST) -> bool:
    """Return whether a statement is an import."""
    return isinstance(node, (ast.Import, ast.ImportFrom))


def imports_only_stdlib(node: ast.Import | ast.ImportFrom) -> bool:
    """Return whether an import refers to Python's standard library alone."""
    if isinstance(node, ast.ImportFrom):
        modules = [] if node.level else [node.module or ""]
    else:
        modules = [alias.name for alias in node.names]
    return bool(modules) and all(
        module.partition(".")[0] in sys.stdlib_module_names for module in modules
    )


def _argument_names(call: ast.Call) -> set[str]:
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    arguments = [node.value if isinstance(node, ast.Starred) else node for node in arguments]
    return {root for argument in arguments if (root := root_name(argument))}


def _declared_global(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    nodes = executed_nodes(*function.body)
    return {name for node in nodes if isinstance(node, ast.Global) for name in node.names}


def _evaluated_at_definition(function: _Function) -> list[ast.expr]:
    """Return the decorators, default values and annotations of a function."""
    arguments = function.args
    expressions = [*arguments.defaults, *(value for value in arguments.kw_defaults if value)]
    if not isinstance(function, ast.Lambda):
        expressions += function.decorator_list
        annotations = (argument.annotation for argument in _all_arguments(function))
        expressions += [annotation for annotation in annotations if annotation]
        expressions += [function.returns] if function.returns else []
    return expressions


def _parameters(function: _Function) -> set[str]:
    return {argument.arg for argument in _all_arguments(function)}


def _all_arguments(function: _Function) -> list[ast.arg]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*named, *(argument for argument in (arguments.vararg, arguments.kwarg) if argument)]
