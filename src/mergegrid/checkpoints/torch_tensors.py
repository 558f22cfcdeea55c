"""Checkpoints and torch: tensors that lie on a device, and tensors copied into a model."""

from collections.abc import Mapping
from typing import Any

import torch

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.errors import CheckpointError


class OnDevice(Checkpoint):
    """A checkpoint held as float32 torch tensors on one device.

    On the CPU, `InMemory` holds the same in NumPy.
    """

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

    def read(self, name: str, start: int, stop: int, room: Stored) -> torch.Tensor:
        """Elements of a tensor, on the device and without a copy."""
        return self._tensors[name].view(-1)[start:stop]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def load_into(model: torch.nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Copy every tensor of a checkpoint into the parameter or buffer of the same name.

    What the checkpoint does not hold, such as a task head, stays as it is.

    Raises:
        CheckpointError: the model lacks a tensor of the checkpoint.
    """
    state = model.state_dict()
    unknown = [name for name in checkpoint if name not in state]
    if unknown:
        raise CheckpointError(
            f"{type(model).__name__} has no {unknown[0]} ({len(unknown)} tensors are unknown to "
            "it); load the checkpoint into a model of its own architecture"
        )
    with torch.no_grad():
        for name, tensor in checkpoint.items():
            state[name].copy_(torch.as_tensor(tensor))
