"""The tensors of a model folder, read run by run from where they lie in its files."""

import os
from collections.abc import Mapping
from pathlib import Path
from weakref import finalize

import numpy as np

from mergegrid.checkpoints import pytorch_files, safetensors_files
from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.checkpoints.location import Location
from mergegrid.errors import CheckpointError

_ADAPTER = "adapter_config.json"


def open_checkpoint(folder: Path) -> "FolderCheckpoint":
    """The tensors of a folder: safetensors where there are some, else `pytorch_model.bin`.

    Raises:
        CheckpointError: the folder holds no weights or an adapter, or they are damaged or cannot
            be merged.
    """
    adapts = (folder / _ADAPTER).is_file() or any(folder.glob("adapter_model.*"))
    for files in (safetensors_files, pytorch_files):
        if files.present(folder):
            if adapts:
                raise CheckpointError(
                    f"{folder} holds {files.SINGLE} or its shards and an adapter ({_ADAPTER}), "
                    "which transformers adds to them when it loads the folder; merge the adapter "
                    "into the model with PEFT (merge_and_unload), or remove it from the folder"
                )
            return FolderCheckpoint(folder, files.locate(folder))
    if adapts:
        raise CheckpointError(
            f"{folder} holds an adapter ({_ADAPTER}) and not a whole model; merge it into its base "
            "with PEFT first (merge_and_unload), and give the folder of the result"
        )
    raise CheckpointError(
        f"{folder} holds no {safetensors_files.SINGLE}, no {pytorch_files.SINGLE} and no index of "
        "shards; give the folder of a model"
    )


class FolderCheckpoint(Checkpoint):
    """Tensors that lie contiguously in files; nothing is read before it is asked for."""

    def __init__(self, folder: Path, places: Mapping[str, Location]) -> None:
        super().__init__({name: TensorInfo(at.shape, at.dtype) for name, at in places.items()})
        self.folder = folder
        self.places = dict(places)
        """Where each tensor lies."""
        self._files = {
            path: os.open(path, os.O_RDONLY) for path in {at.path for at in places.values()}
        }
        finalize(self, _close, list(self._files.values()))

    def read(self, name: str, start: int, stop: int, room: Stored) -> Stored:
        """Elements of a tensor as stored, read into `room`.

        Raises:
            CheckpointError: the file ended or failed while it was read.
        """
        at = self.places[name]
        view = room.view(np.uint8).data
        offset = at.offset + start * at.dtype.size
        while view:
            try:
                count = os.preadv(self._files[at.path], [view], offset)
            except OSError as error:
                raise CheckpointError(f"{at.path} cannot be read: {error}") from error
            if count == 0:
                raise CheckpointError(
                    f"{at.path} ends inside {name}; it was cut while in use: fetch it again"
                )
            view, offset = view[count:], offset + count
        return room


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
