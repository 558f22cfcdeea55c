"""Labels as tables hold them: which class of a task a value names, and which number it is."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from mergegrid.study.schema.tasks import Label

_INTEGER = re.compile(r"\s*([+-]?[0-9]+)(\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
# A YAML file says `yes` and means true; the table that it describes says "yes".
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def is_missing(value: Any, labels: Sequence[Label] = ()) -> bool:
    """Whether a row has no label: null, or an empty field where that is none of the labels."""
    return value is None or (isinstance(value, str) and not value.strip() and "" not in labels)


def class_of(value: Any, labels: Sequence[Label]) -> int | None:
    """Position of the label that a value stands for, None where it is none of them.

    A text equals a label that is written like it, but for white space around it. A listed number
    also stands for its text and for the same number of another type (`1`, `"1"`, `1.0`, true), and
    0, 1 and listed booleans for `"true"`, `"yes"`, `"on"`, 1, `"1"` and their opposites. Where two
    labels would fit, the one of the value's own type counts.
    """
    same = [at for at, label in enumerate(labels) if _is_written(value, label)]
    found = same or [at for at, label in enumerate(labels) if _stands_for(value, label)]
    return found[0] if found else None


def number_of(value: Any) -> float | None:
    """The number that a value is or writes out; None for anything else, NaN and infinity too."""
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
