"""The tensors of a model folder, read chunk by chunk from its files."""

import os
from collections.abc import Mapping
from pathlib import Path
from weakref import finalize

import numpy as np

from mergegrid.checkpoints import pytorch_files, safetensors_files
from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.checkpoints.location import Location
from mergegrid.errors import CheckpointError, HeadersOnlyError

_ADAPTER = "adapter_config.json"
HEADERS_ONLY = ".headers_only"
"""Marks a folder whose weight files have headers but no data (`sources.hub_headers`)."""


def open_checkpoint(folder: Path) -> "FolderCheckpoint":
    """Open the weights of a folder: safetensors if present, else `pytorch_model.bin`.

    Raises:
        CheckpointError: the folder has no weights, or an adapter, or the weights are damaged or
            cannot be merged.
    """
    has_adapter = (folder / _ADAPTER).is_file() or any(folder.glob("adapter_model.*"))
    for files in (safetensors_files, pytorch_files):
        if files.present(folder):
            if has_adapter:
                raise CheckpointError(
                    f"{folder} has both {files.SINGLE} (or shards) and an adapter ({_ADAPTER}), "
                    "which transformers would add when loading; merge the adapter into the model "
                    "with PEFT (merge_and_unload), or remove it from the folder"
                )
            return FolderCheckpoint(folder, files.locate(folder))
    if has_adapter and not (folder / _ADAPTER).is_file():
        raise CheckpointError(
            f"{folder} has the weights of an adapter but no {_ADAPTER}; download it again"
        )
    if has_adapter:
        raise CheckpointError(
            f"{folder} contains an adapter ({_ADAPTER}), not a whole model; merge it into its base "
            "with PEFT (merge_and_unload) and use the resulting folder"
        )
    raise CheckpointError(
        f"{folder} has no {safetensors_files.SINGLE}, no {pytorch_files.SINGLE} and no shard "
        "index; specify a model folder"
    )


class FolderCheckpoint(Checkpoint):
    """Tensors stored contiguously in files; data is read only on request."""

    def __init__(self, folder: Path, locations: Mapping[str, Location]) -> None:
        super().__init__({name: TensorInfo(at.shape, at.dtype) for name, at in locations.items()})
        self.folder = folder
        self.locations = dict(locations)
        self._headers_only = (folder / HEADERS_ONLY).is_file()
        self._files = {
            path: os.open(path, os.O_RDONLY) for path in {at.path for at in locations.values()}
        }
        finalize(self, _close, list(self._files.values()))

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Read elements of a tensor into `buffer`, as stored.

        Raises:
            CheckpointError: the file is shorter than when it was opened, or cannot be read.
            HeadersOnlyError: the folder has no data.
        """
        if self._headers_only:
            raise HeadersOnlyError(f"{self.folder} has only the headers of its weights")
        at = self.locations[name]
        view = buffer.view(np.uint8).data
        offset = at.offset + start * at.dtype.size
        while view:
            try:
                count = os.preadv(self._files[at.path], [view], offset)
            except OSError as error:
                raise CheckpointError(f"{at.path} cannot be read: {error}") from error
            if count == 0:
                raise CheckpointError(
                    f"{at.path} ends inside {name}; it was truncated while in use: download it "
                    "again"
                )
            view, offset = view[count:], offset + count
        return buffer


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
