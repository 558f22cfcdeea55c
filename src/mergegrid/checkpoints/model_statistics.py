"""Files of statistics: what was gathered of an expert, by the names of the tensors it is about."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.folder import FolderCheckpoint
from mergegrid.checkpoints.safetensors_files import locate_in_file
from mergegrid.errors import CheckpointError
from mergegrid.recipes.methods import Method, NeedsStatistics

#: Where the metadata of a file say what it holds.
STATISTICS = "statistics"


class Statistics(FolderCheckpoint):
    """The tensors of a file of statistics, and what the file says of them.

    Files that mergegrid makes say four things, in one text, since several would be in any order:

        {"__metadata__": {"statistics": "{\"arithmetic\": \"exact\", \"examples\": 1024,
         \"expert\": \"5d0c...\", \"kind\": \"fisher\"}"}, ...}
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent, locate_in_file(path))
        self.path, self.says = path, _said(path)


def open_statistics(path: Path) -> Statistics:
    """The tensors of a file of statistics.

    Raises:
        CheckpointError: the file is not there, or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path} with statistics; correct the path")
    return Statistics(path)


def check_settings(expert: str, statistics: Checkpoint, method: Method) -> None:
    """Check what a file says of itself against what a method asks; files may say nothing.

    Raises:
        CheckpointError: it was gathered for another method, otherwise, or from other examples.
    """
    if not isinstance(method, NeedsStatistics) or not isinstance(statistics, Statistics):
        return
    asked: dict[str, Any] = {"kind": method.kind, "arithmetic": method.arithmetic}
    if method.examples is not None:
        asked["examples"] = method.examples
        if "examples" not in statistics.says:
            raise CheckpointError(
                f"{statistics.path} of expert {expert} does not say from how many examples it was "
                f"gathered, and {method.kind} asks for {method.examples}; leave `examples` out"
            )
    for key, wanted in asked.items():
        found = statistics.says.get(key, wanted)
        if found != wanted:
            raise CheckpointError(
                f"{statistics.path} of expert {expert} was gathered with {key} {found}, and "
                f"{method.kind} asks for {wanted}; name another file, or ask for {found}"
            )


def check_fisher(base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
    """Check that there is information about every element: tensors of the base's shapes.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    for expert, found in statistics.items():
        for name, info in base.infos.items():
            _check_shape(expert, found, name, info.shape)


def check_grams(base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
    """Check that the experts have Gram matrices [in, in] of the same linear layers.

    Raises:
        CheckpointError: a matrix is missing, of another shape, or of a tensor the base has not.
    """
    layers = {name: expert for expert, found in statistics.items() for name in found}
    for name, expert in sorted(layers.items()):
        if name not in base or len(base.infos[name].shape) != 2:
            raise CheckpointError(
                f"the statistics of expert {expert} are about {name}, which is no linear layer of "
                "the base; gather them again from this expert"
            )
        width = math.prod(base.infos[name].shape[1:])
        for each, found in statistics.items():
            _check_shape(each, found, name, (width, width))


def _check_shape(expert: str, found: Checkpoint, name: str, wanted: tuple[int, ...]) -> None:
    if name not in found:
        raise CheckpointError(
            f"the statistics of expert {expert} lack {name}; gather them again from this expert"
        )
    if found.infos[name].shape != wanted:
        raise CheckpointError(
            f"{name} is {found.infos[name].shape} in the statistics of expert {expert} and should "
            f"be {wanted}; gather them again from this expert"
        )


def _said(path: Path) -> dict[str, Any]:
    """What the header of a file, known to be whole, says of its statistics; nothing, mostly."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    text = (header.get("__metadata__") or {}).get(STATISTICS, "{}")
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise CheckpointError(
            f"{path} says {text!r} of its statistics, which is not understood; gather them again"
        )
    return said
