"""State dicts as checkpoints: tensors in memory, of NumPy or of torch, without importing torch."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mergegrid.checkpoints.architectures import is_output
from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.errors import CheckpointError


class StateDict(Checkpoint):
    """The floating-point tensors of a state dict, read without a copy where they lie in memory.

    Names that share one storage, such as tied embeddings in torch, are one tensor, under the name
    that is not the output's. Integer tensors, such as position ids, are kept apart.

    Args:
        tensors: float32, float16 or (torch) bfloat16 tensors by name.
        label: the model in error messages, such as `expert math`.

    Raises:
        CheckpointError: a value is not a tensor, or has a dtype that cannot be merged.
    """

    def __init__(self, tensors: Mapping[str, Any], label: str) -> None:
        self.tensors = tensors
        self.aliases: dict[str, str] = {}
        """Names that share the storage of another tensor, with the name of that tensor."""
        self.constants: dict[str, Any] = {}
        """Tensors of integers or booleans, which are not merged."""
        stored, infos = {}, {}
        storages: dict[tuple[Any, ...], str] = {}
        for name in sorted(tensors, key=lambda name: (is_output(name), name)):
            array, dtype = _stored(tensors[name], f"{name} of {label}")
            if dtype is None:
                self.constants[name] = tensors[name]
                continue
            storage = (array.__array_interface__["data"][0], array.shape, array.strides)
            if array.size and storage in storages:
                self.aliases[name] = storages[storage]
                continue
            storages[storage] = name
            infos[name] = TensorInfo(tuple(array.shape), DTYPES[dtype])
            stored[name] = np.ascontiguousarray(array).reshape(-1)
        super().__init__(infos)
        self._stored = stored

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Return elements of a tensor without copying them."""
        return self._stored[name][start:stop]


def _stored(tensor: Any, label: str) -> tuple[Any, str | None]:
    """A tensor as a NumPy array of its stored numbers, and its dtype; None for integers."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.uint16).numpy(), "bfloat16"
        tensor = tensor.numpy()
    if not isinstance(tensor, np.ndarray):
        raise CheckpointError(
            f"{label} is a {type(tensor).__name__}; pass NumPy arrays or torch tensors"
        )
    if tensor.dtype.kind in "iub":
        return tensor, None
    if tensor.dtype.name not in DTYPES:
        raise CheckpointError(
            f"{label} has dtype {tensor.dtype}; convert it to one of {', '.join(DTYPES)}"
        )
    return tensor, tensor.dtype.name
