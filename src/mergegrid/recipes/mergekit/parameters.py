"""Parameters of mergekit: filters, gradients, and the scopes that they are looked up in.

A setting is a number, a list of numbers (a gradient over layers), or a list of such values with
filters:

    weight:
      - {filter: mlp, value: [0, 0.5, 1]}
      - value: 0.3
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from mergegrid.recipes.mergekit.document import Document, Keys

Number = float | bool


@dataclass(frozen=True)
class Condition:
    """The value of a parameter for the tensors whose name contains a text."""

    filter: str | None
    """None covers all tensors."""
    values: tuple[Number, ...]
    """One value for all layers, or several that are interpolated from first to last layer."""
    keys: Keys = ()
    """Its place in the file."""


Setting = tuple[Condition, ...]
"""The first condition that covers a tensor counts."""
Scope = Mapping[str, Setting]
"""Settings by parameter, of a model, a slice, a module or the whole file."""


def read_setting(document: Document, keys: Keys, value: Any, kind: type) -> Setting:
    """Read the setting of a parameter of one kind, `float` or `bool`.

    Raises:
        ConfigError: it is malformed, or a value is not of that kind.
    """
    if isinstance(value, dict):
        # mergekit before 0.1.5 takes no single condition.
        return (_condition(document, keys, value, kind),)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return tuple(
            _condition(document, (*keys, index), item, kind) for index, item in enumerate(value)
        )
    return (Condition(None, _values(document, keys, value, kind), keys),)


def _condition(document: Document, keys: Keys, item: Any, kind: type) -> Condition:
    if not isinstance(item, dict):
        raise document.error(
            keys,
            f" = {item!r} stands among conditions; write {{value: {item!r}}}, without a filter",
        )
    for key in item:
        if key not in ("filter", "value"):
            raise document.error(
                (*keys, key), " is not a key of a condition; write {filter: NAME, value: NUMBER}"
            )
    if "value" not in item:
        raise document.error(keys, ": the condition has no value; add `value: NUMBER`")
    text = item.get("filter")
    if text is not None and not isinstance(text, str):
        raise document.error(
            (*keys, "filter"), f" = {text!r}: expected a part of tensor names, such as mlp"
        )
    values = _values(document, (*keys, "value"), item["value"], kind)
    return Condition(None if text in ("*", "", None) else text, values, keys)


def _values(document: Document, keys: Keys, value: Any, kind: type) -> tuple[Number, ...]:
    if value == []:
        raise document.error(keys, " = []: a gradient needs at least one value; add numbers")
    items = value if isinstance(value, list) else [value]
    return tuple(_number(document, keys, item, kind) for item in items)


def _number(document: Document, keys: Keys, value: Any, kind: type) -> Number:
    if kind is bool:
        if value in (True, False, 0, 1):
            return bool(value)
        raise document.error(keys, f" = {value!r}: expected true or false")
    try:
        # YAML 1.1 reads 1e-1 as text, and mergekit takes it for a number.
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise document.error(keys, f" = {value!r}: expected a number or a list of numbers")
    return number


def look_up(name: str, scopes: Iterable[Scope]) -> Setting:
    """The setting of a parameter over scopes, the innermost first.

    Tensors that no condition of a scope covers take their value from the next scope.
    """
    conditions: list[Condition] = []
    for scope in scopes:
        for condition in scope.get(name, ()):
            conditions.append(condition)
            if condition.filter is None:
                return tuple(conditions)
    return tuple(conditions)


def covers_all(setting: Setting) -> bool:
    """Whether a setting has a value for every tensor."""
    return bool(setting) and setting[-1].filter is None


def constant(setting: Setting) -> Number | None:
    """The value of a setting that has one for the whole model, else None."""
    values = {value for condition in setting for value in condition.values}
    return values.pop() if covers_all(setting) and len(values) == 1 else None


def numbers(setting: Setting) -> list[Number]:
    """All values in a setting."""
    return [value for condition in setting for value in condition.values]


def plain(setting: Setting) -> Any:
    """A setting that covers all tensors, as a value of a merge file.

    A number, {gradient: [0, 1]}, or {rules: [{tensors: "*mlp*", value: 0.5}], default: 1}.
    """
    *rules, default = setting
    if not rules:
        return _plain_values(default)
    return {
        "rules": [
            {"tensors": f"*{_escaped(rule.filter)}*", "value": _plain_values(rule)}
            for rule in rules
        ],
        "default": _plain_values(default),
    }


def _plain_values(condition: Condition) -> Any:
    values = [float(value) for value in condition.values]
    return values[0] if len(set(values)) == 1 else {"gradient": values}


def _escaped(text: str | None) -> str:
    """A text without special characters of patterns."""
    assert text is not None, "only the last condition has no filter"
    return re.sub(r"[*?[]", r"[\g<0>]", text)


def mapped(setting: Setting, function: Callable[[float], float]) -> Setting:
    """A setting with a linear function of all values; gradients stay gradients."""
    return tuple(replace(item, values=tuple(map(function, item.values))) for item in setting)


def one_minus(number: float) -> float:
    """1 - x in decimal: 0.47 for 0.53."""
    return float(1 - Decimal(repr(float(number))))
