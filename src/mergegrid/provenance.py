"""Identity of values, files and code, so that equal work is recognised as equal."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from mergegrid.errors import MergegridError

_ROOT = Path(__file__).parent
# What is asked for reaches every job as parameters; only code that computes has a version.
_WITHOUT_VERSION = ("mergegrid.config", "mergegrid.recipe", "mergegrid.errors", "mergegrid.cli")


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


def folder_digest(folder: Path) -> str:
    """SHA-256 over the relative names and contents of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({path.relative_to(folder).as_posix(): file_digest(path) for path in files})


def code_version(*modules: str) -> str:
    """Version of the code that the given mergegrid modules run: 16 hexadecimal digits.

    Covers the modules and every `mergegrid` module they import, directly or not. Comments,
    docstrings and layout do not count, so editing them repeats no work.
    """
    sources = {name: _code(name) for name in sorted(_closure(modules))}
    return digest(sources)[:16]


def _closure(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found or name.startswith(_WITHOUT_VERSION):
            continue
        found.add(name)
        pending.extend(_imports(name))
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


@cache
def _imports(name: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = (each for each in names if each.startswith("mergegrid."))
    return tuple(sorted(each for each in ours if _file(each)))


@cache
def _code(name: str) -> str:
    tree = _tree(name)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_docstring(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
