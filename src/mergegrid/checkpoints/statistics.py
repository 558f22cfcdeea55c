"""Files of statistics: what was gathered of an expert, by the names of the tensors it is about."""

import math
from collections.abc import Mapping
from pathlib import Path

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.folder import FolderCheckpoint
from mergegrid.checkpoints.safetensors_files import locate_in_file
from mergegrid.errors import CheckpointError


def open_statistics(path: Path) -> FolderCheckpoint:
    """The tensors of a file of statistics.

    Raises:
        CheckpointError: the file is not there, or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path} with statistics; correct the path")
    return FolderCheckpoint(path.parent, locate_in_file(path))


def check_information(base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
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
