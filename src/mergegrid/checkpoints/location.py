"""Where tensors are stored in files, and the checks common to all file formats."""

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mergegrid.checkpoints.dtypes import Dtype
from mergegrid.errors import CheckpointError

logger = logging.getLogger(__name__)

_CONSTANT = re.compile(
    r"""(^|\.)(
        position_ids | token_type_ids                   # BERT and similar: 0, 1, 2, ...; zeros
        | inv_freq                                      # rotary embeddings: a table of rope_theta
        | h\.\d+\.attn(\.attention)?\.(masked_)?bias    # GPT-2, GPT-Neo, GPT-J: the causal mask
        | layers\.\d+\.attention\.(masked_)?bias        # GPT-NeoX: the same
    )$""",
    re.VERBOSE,
)
"""Constants that older versions of transformers saved beside the parameters.

Newer ones recompute them when loading a model. Base and expert may have them or not, in dtypes that
cannot be merged.
"""


@dataclass(frozen=True)
class Location:
    """The bytes of one tensor in a file: contiguous, row-major, little-endian."""

    path: Path
    offset: int
    """Offset of the first byte in the file."""
    shape: tuple[int, ...]
    dtype: Dtype

    @property
    def end(self) -> int:
        """Offset of the first byte after the tensor."""
        return self.offset + math.prod(self.shape) * self.dtype.size


def parameters(entries: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The entries of a file without constants such as `position_ids`, which are logged.

    Raises:
        CheckpointError: a tensor name contains unprintable characters.
    """
    unprintable = [name for name in entries if not name.isprintable()]
    if unprintable:
        raise CheckpointError(
            f"{path} has a tensor with the unprintable name {unprintable[0]!r}; download the model "
            "again"
        )
    kept = {name: entry for name, entry in entries.items() if not _CONSTANT.search(name)}
    if len(kept) < len(entries):
        constants = sorted(entries.keys() - kept.keys())
        logger.info(
            "%s: %d constants are not parameters and are ignored, first %s",
            *(path, len(constants), constants[0]),
        )
    return kept


def locate_all(
    folder: Path, single: str, index: str, locate_in_file: Callable[[Path], dict[str, Location]]
) -> dict[str, Location]:
    """Locate every parameter of a folder, in all of its weight files.

    Raises:
        CheckpointError: a file lies outside the folder or lacks a tensor that the index assigns to
            it, a tensor is in two files, or there are no tensors.
    """
    locations: dict[str, Location] = {}
    for path, names in shards(folder, single, index).items():
        in_file = locate_in_file(path)
        missing = sorted(
            name for name in names or [] if name not in in_file and not _CONSTANT.search(name)
        )
        if missing:
            raise CheckpointError(
                f"{path} lacks {missing[0]}, which {index} assigns to it; download the model again"
            )
        duplicates = sorted(locations.keys() & in_file.keys())
        if duplicates:
            raise CheckpointError(
                f"{duplicates[0]} is in both {path} and {locations[duplicates[0]].path}; download "
                "the model again"
            )
        locations.update(in_file)
    if not locations:
        raise CheckpointError(f"{folder} contains no tensors; specify a model folder")
    return locations


def shards(folder: Path, single: str, index: str) -> dict[Path, list[str] | None]:
    """The weight files of a folder, each with the tensor names that the index assigns to it.

    Without an index there is one file, whose names are None: only its header lists them. An index
    whose shards are all missing is left over from an earlier save; like transformers, this then
    uses the single file.

    Raises:
        CheckpointError: the index is damaged or refers to a file that is missing or outside the
            folder; or both a single file and shards exist, of which transformers loads the single
            file and vLLM the shards.
    """
    path = folder / index
    if not path.is_file():
        return {inside(folder, single): None}
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map; download the model again")
    indexed: dict[str, list[str]] = {}
    for name, file in sorted(weight_map.items()):
        indexed.setdefault(str(file), []).append(name)
    if (folder / single).is_file():
        others = [file for file in indexed if file != single]
        if existing := [inside(folder, file) for file in others if (folder / file).is_file()]:
            raise CheckpointError(
                f"{folder} has two sets of weights, {single} and the shards of {index} (first "
                f"{existing[0].name}); remove the outdated one"
            )
        if others and single not in indexed:
            logger.warning("%s: using %s; the shards of %s are missing", folder, single, index)
            return {inside(folder, single): None}
    return {inside(folder, file): names for file, names in indexed.items()}


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a folder, by a name that may come from an untrusted file.

    Symbolic links are followed, even out of the folder: their owner created them, for instance to
    the `blobs` of a hub cache or to a disk for large files. Folders unpacked from archives contain
    no such links (`sources.archives`).

    Raises:
        CheckpointError: the file is missing, or the name leads out of the folder.
    """
    path = folder / name
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise CheckpointError(f"{path} points out of its folder, {folder}; put the file there")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download the model again")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: the file cannot be read or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}); download the model again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; download the model again")
    return value
