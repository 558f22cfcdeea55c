"""A question of a benchmark, and what its answer is measured by."""

import ast
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergegrid.errors import DataError


@dataclass(frozen=True)
class Question:
    """One question.

    Example:
        Question("17", "What is 2 + 3?", {"answer": "2 + 3 = 5\\n#### 5"})
    """

    id: str
    """Name within the benchmark; it does not change when others are left out."""
    instruction: str
    """What the model is asked, without any prompt around it."""
    reference: Mapping[str, Any]
    """What a score needs of the record."""


Reader = Callable[[Sequence[Mapping[str, Any]]], list[Question]]
"""Questions of records, in their order.

Raises:
    DataError: a record lacks a column, or holds a question or a reference that cannot be used.
"""


@dataclass(frozen=True)
class Record:
    """A record of a benchmark, and how messages name it."""

    kind: str
    """Kind of the benchmark."""
    row: int
    """Position among the records."""
    values: Mapping[str, Any]

    def has(self, *names: str) -> bool:
        """Whether one of some columns holds more than white space."""
        return any(self._filled(name) for name in names)

    def value(self, *names: str) -> Any:
        """The value of the first of some columns that a record has.

        Raises:
            DataError: it has none.
        """
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        raise DataError(
            f"{self} has columns {', '.join(map(str, self.values))} and none of "
            f"{', '.join(names)}; name the right files"
        )

    def text(self, *names: str, empty: bool = False) -> str:
        """The text of the first of some columns that a record has.

        Raises:
            DataError: it has none, or no text there.
        """
        value = self.value(*names)
        # An integer can be written in one way only.
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str):
            raise self.wrong(names[0], value, f"{type(value).__name__} and not text")
        if not (text.strip() or empty):
            raise self.wrong(names[0], value, "empty")
        return text

    def optional(self, name: str) -> str:
        """The text of a column, empty where the record has none."""
        return self.text(name, empty=True) if self.values.get(name) is not None else ""

    def python(self, name: str, program: str) -> ast.Module:
        """The syntax of a program out of a column.

        Raises:
            DataError: it is not valid Python.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(program)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.wrong(name, program, f"not valid Python ({error})") from error

    def tests(self, name: str, program: str) -> ast.Module:
        """The syntax of tests out of a column.

        Raises:
            DataError: it is not valid Python, or asserts a tuple, which is always true.
        """
        tree = self.python(name, program)
        for each in ast.walk(tree):
            if isinstance(each, ast.Assert) and isinstance(each.test, ast.Tuple) and each.test.elts:
                raise self.wrong(
                    name,
                    ast.unparse(each),
                    "always true: it asserts a tuple",
                    "write the assertion and its message without parentheses around both",
                )
        return tree

    def wrong(self, name: str, value: Any, what: str, do: str = "") -> DataError:
        """The error that says what is wrong with a value, where, and what to do."""
        shown = repr(value)
        shown = shown if len(shown) <= 200 else f"{shown[:120]} ... {shown[-60:]}"
        advice = do or "correct the record, or name the right files"
        return DataError(f"{self}: {name!r} is {shown}, which is {what}; {advice}")

    def __str__(self) -> str:
        names = (self.values.get(name) for name in ("task_id", "unique_id"))
        known = next((f" ({name})" for name in names if isinstance(name, str | int)), "")
        return f"record {self.row + 1}{known} of {self.kind}"

    def _filled(self, name: str) -> bool:
        value = self.values.get(name)
        return value is not None and not (isinstance(value, str) and not value.strip())


def numbered(kind: str, records: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Records of a benchmark with their positions."""
    return [Record(kind, row, values) for row, values in enumerate(records)]
