"""Whether an adapter names the base that it is merged with.

Nothing in a plain adapter depends on its base, and models of one size all fit. So the name is what
there is: the last part of `base_model_name_or_path`, without the suffixes of quantized copies.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mergegrid.checkpoints.adapters.config import AdapterConfig
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.parents import parent_of
from mergegrid.checkpoints.tensor_names import read_config
from mergegrid.errors import CheckpointError

_QUANTIZED = re.compile(
    r"(-unsloth)?(-bnb)?-(4|8)bit$|-(gptq|awq|fp8|nf4|int4|int8|gguf|hqq|exl2)[\w.-]*$"
)
"""Suffixes of repositories that hold a quantized copy of a model."""


def check_base_name(
    config: AdapterConfig, base: Path, expert: str, base_is: Sequence[str] = ()
) -> list[str]:
    """Check that an adapter was trained on a base, as far as names tell.

    Args:
        config: settings of the adapter.
        base: folder of the base.
        expert: name of the expert, for messages.
        base_is: further names of the base.

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
    plain, known = _plain(name), [*_names(base), *base_is]
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


def _names(base: Path) -> list[str]:
    """Names of a model: its hub id or folder, its config's, and the place it was imported from."""
    parent = parent_of(base)
    path = base / "manifest.json"
    made_from = read_json(path).get("made_from", {}) if path.is_file() else {}
    imported = str(made_from.get("source", "")).partition(":")[2].partition("@")[0]
    named = (parent.repo, parent.folder_name, read_config(base).get("_name_or_path"), imported)
    return [str(name) for name in named if name]


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _plain(name: str) -> str:
    """The last part of a name, without suffixes of quantization, in lower case."""
    plain, shorter = _last(name), ""
    while (shorter := _QUANTIZED.sub("", plain)) != plain:
        plain = shorter
    return plain
