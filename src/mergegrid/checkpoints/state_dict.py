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

    Integer tensors, such as position ids, are kept apart.

    Args:
        tensors: float32, float16 or (torch) bfloat16 tensors by name.
        label: the model in error messages, such as `expert math`.
        aliases: names to leave out, each with the name of a tensor that must be equal to it.

    Raises:
        CheckpointError: a value is not a tensor, has a dtype that cannot be merged, or differs from
            the tensor that it is an alias of.
    """

    def __init__(
        self, tensors: Mapping[str, Any], label: str, aliases: Mapping[str, str] | None = None
    ) -> None:
        self.constants: dict[str, Any] = {}
        """Tensors of integers or booleans, which are not merged."""
        self._flat: dict[str, Stored] = {}
        infos = {}
        for name, tensor in tensors.items():
            array, dtype = _stored(tensor, f"{name} of {label}")
            if dtype is None:
                self.constants[name] = tensor
                continue
            infos[name] = TensorInfo(tuple(array.shape), DTYPES[dtype])
            self._flat[name] = np.ascontiguousarray(array).reshape(-1)
        for alias, name in (aliases or {}).items():
            if alias not in infos or name not in infos:
                continue
            if not np.array_equal(
                self._flat[alias].view(np.uint8), self._flat[name].view(np.uint8)
            ):
                raise CheckpointError(
                    f"{alias} and {name} are one tensor in the base, but differ in {label}; "
                    "untie them in the base (as copies) to merge both"
                )
            del infos[alias], self._flat[alias]
        super().__init__(infos)

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Elements of a tensor, without a copy."""
        return self._flat[name][start:stop]


def tied_names(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Names that share the storage of another tensor, such as tied embeddings in torch.

    Returns:
        The name of that tensor by alias; of an input and an output embedding, the output is the
        alias, as in files.
    """
    aliases: dict[str, str] = {}
    storages: dict[tuple[Any, ...], str] = {}
    for name in sorted(tensors, key=lambda name: (is_output(name), name)):
        array, dtype = _stored(tensors[name], name)
        if dtype is None or not array.size:
            continue
        storage = (array.__array_interface__["data"][0], array.shape, array.strides)
        if storage in storages:
            aliases[name] = storages[storage]
        storages.setdefault(storage, name)
    return aliases


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
