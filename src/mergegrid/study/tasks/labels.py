"""Labels of tables: convert their values to class indices or numbers."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from mergegrid.study.schema.tasks import Label

_INTEGER = re.compile(r"\s*([+-]?[0-9]+)(\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
# `yes` in a YAML file means true, while the table that it describes has the text "yes".
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def is_missing(value: Any, labels: Sequence[Label] = ()) -> bool:
    """Tell whether a row has no label: null, or an empty field unless that is a label."""
    return value is None or (isinstance(value, str) and not value.strip() and "" not in labels)


def class_of(value: Any, labels: Sequence[Label]) -> int | None:
    """Return the position of the label that a value stands for, or None.

    A text equals a label that is written like it, but for surrounding white space. A listed number
    also stands for its text and for the same number of another type (`1`, `"1"`, `1.0`, true), and
    0, 1 and listed booleans for `"true"`, `"yes"`, `"on"`, 1, `"1"` and their opposites. If two
    labels fit, the one of the value's type counts.
    """
    for equals in (_is_written, _stands_for):
        for index, label in enumerate(labels):
            if equals(value, label):
                return index
    return None


def named_labels(
    values: Sequence[Any], names: Sequence[str] | None, labels: Sequence[Label]
) -> list[Any]:
    """Replace class numbers by the names that a data set has for them, if the labels are names.

    Args:
        values: a column of labels; -1 stands for a missing one.
        names: names of the classes 0, 1, ... in the data set, if it has some.
        labels: labels of the task.
    """
    if not names or not all(isinstance(label, str) for label in labels):
        return list(values)
    known = dict(enumerate(names)) | {-1: None}
    return [known.get(value, value) if type(value) is int else value for value in values]


def number_of(value: Any) -> float | None:
    """Convert a finite number or its text to a float; None for anything else."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value) else None
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_written(value: Any, label: Label) -> bool:
    if isinstance(value, str) and isinstance(label, str):
        return value.strip() == label.strip()
    return type(value) is type(label) and bool(value == label)


def _stands_for(value: Any, label: Label) -> bool:
    if isinstance(label, bool):
        return _boolean(value) is label
    if isinstance(label, int):
        if isinstance(value, str):
            match = _INTEGER.fullmatch(value)
            number = int(match[1]) if match else _BOOLEANS.get(value.strip().lower())
            return number == label
        return isinstance(value, int | float | Decimal) and value == label
    return isinstance(value, bool) and str(value).lower() == label.strip().lower()


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return _BOOLEANS.get(value.strip().lower())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None
