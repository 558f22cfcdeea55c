"""Names that pieces of Python read, bind and change."""

import ast
import builtins
import sys
from collections.abc import Collection, Iterable, Iterator

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "__annotations__"}
"""Names that need no definition."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Methods of lists, sets, dictionaries and queues that change them, wherever they are called.
_CHANGING = {
    "add",
    "append",
    "appendleft",
    "clear",
    "discard",
    "extend",
    "extendleft",
    "insert",
    "pop",
    "popitem",
    "popleft",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
}


def running(*nodes: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run with a statement; of functions that it defines, not their bodies."""
    rest = list(nodes)
    while rest:
        node = rest.pop()
        yield node
        if isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            rest += _around(node)
        else:
            rest += ast.iter_child_nodes(node)


def bound(*nodes: ast.AST) -> set[str]:
    """The names that statements define where they stand."""
    found: set[str] = set()
    rest = list(nodes)
    while rest:
        node = rest.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
                rest += node.decorator_list
                continue
            case ast.Lambda():
                continue
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.alias():
                found.add(node.asname or node.name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                found.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                found.add(name)
            case ast.MatchMapping(rest=str(name)):
                found.add(name)
        rest += ast.iter_child_nodes(node)
    return found


def changed(*nodes: ast.AST) -> set[str]:
    """The names whose objects statements change: `x[0] = 1`, `x.y = 1`, `x.append(1)`, `@x.add`."""
    found: set[str] = set()
    for node in running(*nodes):
        targets: list[ast.expr] = []
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()):
                targets = [node]
            case ast.Subscript(ctx=ast.Store() | ast.Del()):
                targets = [node]
            case ast.Expr(value=ast.Call(func=ast.Attribute() as method)):
                targets = [method]
            case ast.Call(func=ast.Attribute(attr=name) as method) if name in _CHANGING:
                targets = [method]
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                targets = [
                    each.func if isinstance(each, ast.Call) else each
                    for each in node.decorator_list
                ]
        found |= {root for target in targets if (root := root_name(target))}
    return found


def changed_by(function: ast.AST, fillers: Collection[str] = ()) -> set[str]:
    """The names outside of a function that it binds or changes when it is called.

    Args:
        function: The function.
        fillers: Functions that change what is given to them.
    """
    if not isinstance(function, _FUNCTIONS):
        return set()
    inside = list(running(*function.body))
    declared = {name for node in inside if isinstance(node, ast.Global) for name in node.names}
    local = (bound(*function.body) | _parameters(function)) - declared
    return declared | ((changed(*function.body) | arguments_of(fillers, *function.body)) - local)


def changes_arguments(function: ast.AST) -> bool:
    """Whether a function changes an object that is given to it, or passes it on."""
    if not isinstance(function, _FUNCTIONS):
        return False
    own = _parameters(function)
    passed = {
        name
        for node in running(*function.body)
        if isinstance(node, ast.Call)
        and not (isinstance(node.func, ast.Name) and node.func.id in BUILTINS)
        for name in _given(node)
    }
    return bool((changed(*function.body) | passed) & own)


def arguments_of(functions: Collection[str], *nodes: ast.AST) -> set[str]:
    """The names of the objects that statements give to functions."""
    return {
        name
        for node in running(*nodes)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in functions
        for name in _given(node)
    }


def _given(call: ast.Call) -> set[str]:
    given = [*call.args, *(each.value for each in call.keywords)]
    given = [each.value if isinstance(each, ast.Starred) else each for each in given]
    return {root for each in given if (root := root_name(each))}


def reads(*nodes: ast.AST) -> set[str]:
    """The names that statements read when they run."""
    return {
        node.id
        for node in running(*nodes)
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Load, ast.Del))
    }


def needs(*nodes: ast.AST) -> set[str]:
    """The names from outside that statements read, be it when a function in them is called."""
    found: set[str] = set()
    for node in running(*nodes):
        if isinstance(node, ast.Name):
            # An augmented assignment reads what it stores.
            found.add(node.id)
        elif isinstance(node, _FUNCTIONS):
            declared = {
                name
                for inner in running(*node.body)
                if isinstance(inner, ast.Global)
                for name in inner.names
            }
            found |= needs(*node.body) - (bound(*node.body) | _parameters(node)) | declared
        elif isinstance(node, ast.Lambda):
            found |= needs(node.body) - _parameters(node)
    return found


def unresolved(nodes: Iterable[ast.AST], known: set[str]) -> set[str]:
    """The names that statements read and nothing defines."""
    nodes = list(nodes)
    return needs(*nodes) - bound(*nodes) - _of_classes(nodes) - known - BUILTINS


def root_name(node: ast.expr) -> str | None:
    """The name `x` of an expression such as `x.y[0].z`."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def is_import(node: ast.AST) -> bool:
    """Whether a statement imports something."""
    return isinstance(node, (ast.Import, ast.ImportFrom))


def is_installed(node: ast.Import | ast.ImportFrom) -> bool:
    """Whether a statement imports from Python's own library alone."""
    if isinstance(node, ast.ImportFrom):
        modules = [] if node.level else [node.module or ""]
    else:
        modules = [each.name for each in node.names]
    return bool(modules) and all(
        each.partition(".")[0] in sys.stdlib_module_names for each in modules
    )


def _of_classes(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that the bodies of classes bind for themselves."""
    return {
        name
        for node in running(*nodes)
        if isinstance(node, ast.ClassDef)
        for name in bound(*node.body)
    }


def _around(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[ast.expr]:
    """What runs when a function is defined: decorators, defaults and annotations."""
    arguments = function.args
    found = [*arguments.defaults, *(each for each in arguments.kw_defaults if each)]
    if not isinstance(function, ast.Lambda):
        found += function.decorator_list
        found += [each.annotation for each in _all(arguments) if each.annotation]
        found += [function.returns] if function.returns else []
    return found


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    return {each.arg for each in _all(function.args)}


def _all(arguments: ast.arguments) -> list[ast.arg]:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*named, *(each for each in (arguments.vararg, arguments.kwarg) if each)]
