"""Checkpoints as torch tensors on a device, and loading them into a model."""

from collections.abc import Mapping
from typing import Any

import torch

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.errors import CheckpointError


class OnDevice(Checkpoint):
    """A checkpoint held as float32 torch tensors on one device; `InMemory` is its NumPy twin."""

    def __init__(self, tensors: Mapping[str, Any], device: torch.device | str) -> None:
        self._tensors = {
            name: torch.as_tensor(tensor).to(device, torch.float32).contiguous()
            for name, tensor in tensors.items()
        }
        super().__init__(
            {
                name: TensorInfo(tuple(tensor.shape), DTYPES["float32"])
                for name, tensor in self._tensors.items()
            }
        )

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> torch.Tensor:
        """Return elements of a tensor, on the device and without copying them."""
        return self._tensors[name].view(-1)[start:stop]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def load_into(model: torch.nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Copy every tensor of a checkpoint into the parameter or buffer of the same name.

    Tensors that the checkpoint lacks, such as a task head, keep their values.

    Raises:
        CheckpointError: the model lacks a tensor of the checkpoint.
    """
    state = model.state_dict()
    unknown = [name for name in checkpoint if name not in state]
    if unknown:
        raise CheckpointError(
            f"{type(model).__name__} has no {unknown[0]} ({len(unknown)} unknown tensors); load "
            "the checkpoint into a model of the same architecture"
        )
    with torch.no_grad():
        for name, tensor in checkpoint.items():
            state[name].copy_(torch.as_tensor(tensor))
