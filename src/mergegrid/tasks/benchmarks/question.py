"""A question of a benchmark, and what its answer is measured by."""

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


Record = Mapping[str, Any]
Reader = Callable[[Sequence[Record]], list[Question]]
"""Questions of records, in their order."""


def column(record: Record, names: Sequence[str], kind: str) -> Any:
    """The value of the first of some columns that a record has.

    Raises:
        DataError: it has none.
    """
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise DataError(
        f"a record of {kind} has columns {', '.join(map(str, record))} and none of "
        f"{', '.join(names)}; name the right files"
    )
