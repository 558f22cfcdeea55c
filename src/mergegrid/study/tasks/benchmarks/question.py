"""Questions of a benchmark and the records that they are read from."""

import ast
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergegrid.errors import DataError


@dataclass(frozen=True)
class Question:
    """A question with the reference for its score.

    Example:
        Question("17", "What is 2 + 3?", {"answer": "2 + 3 = 5\\n#### 5"})
    """

    id: str
    """Unique within the benchmark, and independent of which other questions are used."""
    instruction: str
    """The question without a prompt around it."""
    reference: Mapping[str, Any]
    """The part of the record that scoring needs."""


Reader = Callable[[Sequence[Mapping[str, Any]]], list[Question]]
"""Converts records to questions, in order.

Raises:
    DataError: a record lacks a column, or has an unusable question or reference.
"""


@dataclass(frozen=True)
class BenchmarkRecord:
    """A record of a benchmark, with checks of its values."""

    kind: str
    """Kind of the benchmark."""
    row: int
    """Position among the records."""
    values: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Tell whether a column contains more than white space."""
        value = self.values.get(name)
        return value is not None and not (isinstance(value, str) and not value.strip())

    def value(self, *names: str) -> Any:
        """Return the value of the first column that the record has.

        Raises:
            DataError: the record has none of the columns.
        """
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        raise DataError(
            f"{self} has none of the columns {', '.join(names)}; it has "
            f"{', '.join(map(str, self.values))}; check that the files are right"
        )

    def text(self, *names: str, empty: bool = False) -> str:
        """Return the text of the first column that the record has.

        Raises:
            DataError: the record has none of the columns, or no text there.
        """
        value = self.value(*names)
        # Unlike other numbers, an integer has only one spelling.
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str):
            raise self.wrong(names[0], value, f"is {type(value).__name__}, not text")
        if not (text.strip() or empty):
            raise self.wrong(names[0], value, "is empty")
        return text

    def optional(self, name: str) -> str:
        """Return the text of a column, empty if the record has none."""
        return self.text(name, empty=True) if self.values.get(name) is not None else ""

    def python(self, name: str, program: str) -> ast.Module:
        """Parse a program from a column.

        Raises:
            DataError: it is not valid Python.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(program)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.wrong(name, program, f"is not valid Python ({error})") from error

    def tests(self, name: str, program: str) -> ast.Module:
        """Parse tests from a column.

        Raises:
            DataError: they are not valid Python, or assert a tuple, which is always true.
        """
        tree = self.python(name, program)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and node.test.elts:
                raise self.wrong(
                    name,
                    ast.unparse(node),
                    "asserts a tuple, which is always true",
                    "remove the parentheses around assertion and message",
                )
        return tree

    def wrong(
        self,
        name: str,
        value: Any,
        problem: str,
        advice: str = "correct the record, or choose other files",
    ) -> DataError:
        """Return an error about a value: where it is, what is wrong with it and what to do."""
        shown = repr(value)
        shown = shown if len(shown) <= 200 else f"{shown[:120]} ... {shown[-60:]}"
        return DataError(f"{self}: {name!r} {problem}: {shown}; {advice}")

    def __str__(self) -> str:
        ids = (self.values.get(name) for name in ("task_id", "unique_id"))
        known = next((f" ({value})" for value in ids if isinstance(value, str | int)), "")
        return f"record {self.row + 1}{known} of {self.kind}"


def numbered(kind: str, records: Sequence[Mapping[str, Any]]) -> list[BenchmarkRecord]:
    """Attach their positions to the records of a benchmark."""
    return [BenchmarkRecord(kind, row, values) for row, values in enumerate(records)]
