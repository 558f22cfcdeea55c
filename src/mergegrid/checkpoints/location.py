"""Where a tensor lies, and the checks that hold for every kind of file."""

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

_BUFFER = re.compile(
    r"""(^|\.)(
        position_ids | token_type_ids                   # BERT and its kin: 0, 1, 2, ...; zeros
        | inv_freq                                      # rotary embeddings: a table of rope_theta
        | h\.\d+\.attn(\.attention)?\.(masked_)?bias    # GPT-2, GPT-Neo, GPT-J: the causal mask
        | layers\.\d+\.attention\.(masked_)?bias       # GPT-NeoX: the same
    )$""",
    re.VERBOSE,
)
"""Constants that older versions of transformers saved beside the parameters.

Newer ones make them again when they load a model. Base and expert may hold them or not, in types
that cannot be merged.
"""


@dataclass(frozen=True)
class Location:
    """The bytes of one tensor: contiguous, row by row, little-endian."""

    path: Path
    offset: int
    """First byte in the file."""
    shape: tuple[int, ...]
    dtype: Dtype

    @property
    def end(self) -> int:
        """First byte after the tensor."""
        return self.offset + math.prod(self.shape) * self.dtype.size


def parameters(entries: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The entries of a file but for constants such as `position_ids`, which the log names.

    Raises:
        CheckpointError: a tensor has a name that cannot be printed.
    """
    odd = [name for name in entries if not name.isprintable()]
    if odd:
        raise CheckpointError(f"{path} has a tensor called {odd[0]!r}; fetch the model again")
    kept = {name: entry for name, entry in entries.items() if not _BUFFER.search(name)}
    if len(kept) < len(entries):
        left_out = sorted(entries.keys() - kept.keys())
        logger.info(
            "%s: %d constants are no parameters and are left out, first %s",
            path,
            len(left_out),
            left_out[0],
        )
    return kept


def gather(
    folder: Path, single: str, index: str, locate_in_file: Callable[[Path], dict[str, Location]]
) -> dict[str, Location]:
    """Every parameter of a folder and where it lies, from all files that hold some.

    Raises:
        CheckpointError: a file lies outside the folder or lacks a tensor that the index places in
            it, a tensor is in two files, or there is none.
    """
    places: dict[str, Location] = {}
    for path, names in shards(folder, single, index).items():
        found = locate_in_file(path)
        lost = sorted(
            name for name in names or [] if name not in found and not _BUFFER.search(name)
        )
        if lost:
            raise CheckpointError(
                f"{path} lacks {lost[0]}, which {index} places there; fetch the model again"
            )
        twice = sorted(set(places) & set(found))
        if twice:
            raise CheckpointError(
                f"{twice[0]} is in {path} and in {places[twice[0]].path}; fetch the model again"
            )
        places.update(found)
    if not places:
        raise CheckpointError(f"{folder} holds no tensor; give the folder of a model")
    return places


def shards(folder: Path, single: str, index: str) -> dict[Path, list[str] | None]:
    """Files that hold the weights, each with the tensors that the index places there.

    Without an index there is one file, and what it holds is for its header to say. An index whose
    shards are all gone was left by an earlier save; transformers loads the one file, and so do we.

    Raises:
        CheckpointError: the index is damaged, names a file that is not there, or one outside the
            folder, or there are a single file and shards, of which transformers loads the first and
            vLLM the second.
    """
    path = folder / index
    if not path.is_file():
        return {inside(folder, single): None}
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map; fetch the model again")
    named: dict[str, list[str]] = {}
    for name, file in sorted(weight_map.items()):
        named.setdefault(str(file), []).append(name)
    if (folder / single).is_file():
        others = [file for file in named if file != single]
        if at_hand := [inside(folder, file) for file in others if (folder / file).is_file()]:
            raise CheckpointError(
                f"{folder} holds two sets of weights, {single} and the shards of {index} (first "
                f"{at_hand[0].name}); remove the one that is out of date"
            )
        if others and single not in named:
            logger.warning("%s: %s is used; the shards of %s are gone", folder, single, index)
            return {inside(folder, single): None}
    return {inside(folder, file): names for file, names in named.items()}


def inside(folder: Path, name: str) -> Path:
    """A file of the folder, by a name that may come out of a file.

    A link is followed wherever it leads, for its owner made it: into the `blobs` of a hub cache,
    or to the disk where large files lie. What was unpacked from an archive holds no such links
    (`sources.archives`).

    Raises:
        CheckpointError: the file is not there, or the name leads out of the folder.
    """
    path = folder / name
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise CheckpointError(
            f"{path} points out of its folder, {folder}; put the file itself there"
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; fetch the model again")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: it cannot be read or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({error}); fetch the model again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is no JSON object; fetch the model again")
    return value
