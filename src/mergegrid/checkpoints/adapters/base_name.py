"""Whether an adapter names the base that it is merged with.

Nothing in a plain adapter depends on its base, and models of one size all fit. So the name is what
there is: the last part of `base_model_name_or_path`, without the suffixes of quantized copies.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mergegrid.checkpoints.adapters.config import AdapterConfig
from mergegrid.errors import CheckpointError

_QUANTIZED = re.compile(
    r"(-unsloth)?(-bnb)?-(4|8)bit$|-(gptq|awq|fp8|nf4|int4|int8|gguf|hqq|exl2)[\w.-]*$"
)
"""Suffixes of repositories that hold a quantized copy of a model."""


def check_base_name(
    config: AdapterConfig, base: Path, known: Sequence[str], expert: str
) -> list[str]:
    """Check that an adapter was trained on a base, as far as names tell.

    Args:
        config: settings of the adapter.
        base: folder of the base.
        known: names of the base: its hub id or folder, and what `base_is` says.
        expert: name of the expert, for messages.

    Returns:
        Notes: that the adapter names no base, or a quantized copy.

    Raises:
        CheckpointError: it names another base.
    """
    name = config.base_name
    if not name:
        return [f"expert {expert}: its adapter does not name its base, which is not checked"]
    if Path(name).is_dir() and Path(name).resolve() == base.resolve():
        return []
    plain = _plain(name)
    if plain not in map(_plain, known):
        raise CheckpointError(
            f"expert {expert}: {config.path} names the base {name}, and the base here is "
            f"{known[0]}; specify that one, or write `base_is: {name}` if they are the same"
        )
    if plain != _last(name):
        return [
            f"expert {expert}: its adapter was trained on a quantized copy of the base ({name}); "
            "its delta is added to the base as it is here"
        ]
    return []


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _plain(name: str) -> str:
    """The last part of a name, without suffixes of quantization, in lower case."""
    plain, shorter = _last(name), ""
    while (shorter := _QUANTIZED.sub("", plain)) != plain:
        plain = shorter
    return plain
