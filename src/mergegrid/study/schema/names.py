"""Names chosen by users, which become parts of paths and columns of tables."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

M = TypeVar("M", bound=Mapping[str, Any])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: What lies beside the folders of families in the folder of results.
RESULTS = (
    "answers.parquet",
    "benchmarks",
    "comparisons.parquet",
    "costs",
    "figures",
    "findings.md",
    "findings.parquet",
    "findings_text.html",
    "ranking.parquet",
    "report.html",
    "sandbox.txt",
    "scores.parquet",
    "sources",
    "tables",
    "tasks",
)
#: Columns beside which a table has one for each task.
_COLUMNS = ("experts", "family", "mean", "method", "selection", "sparsifier")


def _part_of_paths(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "use only letters, digits, '.', '-' and '_', because names become part of file paths"
        )
    return name


Name = Annotated[str, AfterValidator(_part_of_paths)]


def no_twins(named: M) -> M:
    """Return a mapping unchanged; names must differ by more than case, for macOS.

    Raises:
        ValueError: two names differ by case alone.
    """
    by_lower_case: dict[str, str] = {}
    for name in named:
        other = by_lower_case.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                f"{other} and {name} differ by case alone, and are the same path on some file "
                "systems; rename one of them"
            )
    return named


def check_folders(families: Iterable[str], results: str, logs: str) -> None:
    """Check that no family has the name of another result.

    Raises:
        ValueError: one does.
    """
    reserved = set(RESULTS)
    place = PurePath(os.path.relpath(logs, results))
    if place.parts and place.parts[0] != os.pardir:
        reserved.add(place.parts[0])
    for name in families:
        if name.lower() in {taken.lower() for taken in reserved}:
            raise ValueError(
                f"a family cannot be called {name}: {results} holds {', '.join(sorted(reserved))}; "
                "rename the family"
            )


def check_columns(names: Iterable[str], what: str) -> None:
    """Check that no task or benchmark has the name of another column of the tables.

    Raises:
        ValueError: one has.
    """
    for name in names:
        if name in _COLUMNS:
            raise ValueError(
                f"a {what} cannot be called {name}: tables have columns {', '.join(_COLUMNS)}; "
                "rename it"
            )
