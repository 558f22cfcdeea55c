"""Checks of mappings, lists and keys: what mergekit would ignore or crash on is an error."""

import difflib
from collections.abc import Collection
from typing import Any

from mergegrid.recipes.mergekit.document import Document, Keys
from mergegrid.recipes.mergekit.methods import PARAMETERS


def mapping(document: Document, keys: Keys, value: Any) -> dict[str, Any]:
    """Check that a value is a mapping, and not empty.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, dict) or not value:
        raise document.error(keys, f" = {value!r}: expected a mapping, `key: value`")
    return value


def items(document: Document, keys: Keys, value: Any) -> list[tuple[Keys, Any]]:
    """Check that a value is a list, and not empty; its items with their places.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, list) or not value:
        raise document.error(keys, f" = {value!r}: expected a list of items with `- `")
    return [((*keys, index), item) for index, item in enumerate(value)]


def check_keys(
    document: Document, keys: Keys, value: dict[str, Any], known: Collection[str]
) -> None:
    """Check that a mapping has no other keys than those that mergekit reads there.

    Raises:
        ConfigError: it has one, which mergekit would ignore.
    """
    for key in value:
        if key in known:
            continue
        place = (*keys, key)
        if key in PARAMETERS and "parameters" in known:
            raise document.error(
                place,
                " stands outside `parameters`, where mergekit ignores it; move it below "
                "`parameters`, or remove it",
            )
        if key == "revision" and "model" in known:
            raise document.error(
                place, " is ignored by mergekit; write `model: NAME@REVISION`, or remove it"
            )
        raise document.error(
            place,
            f" is not a key that mergekit reads there; {did_you_mean(str(key), known)}it reads "
            f"{', '.join(known)}",
        )


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`did you mean dtype? `, or nothing if no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}? " if near else ""
