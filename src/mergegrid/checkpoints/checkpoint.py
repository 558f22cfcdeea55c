"""A checkpoint: a lazy, read-only mapping from tensor names to float32 tensors."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergegrid.checkpoints.dtypes import DTYPES, Dtype, Floats, Stored, decode
from mergegrid.kernels.product import Product


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: Dtype

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size as stored."""
        return self.count * self.dtype.size


@dataclass(frozen=True)
class Change:
    """How a tensor of an expert follows from the base's: not at all, or by a product.

    With a product D the delta is D; with a growth G as well, it is D + G (base + D).
    """

    product: Product | None = None
    growth: Product | None = None


class Checkpoint(Mapping[str, Any]):
    """Tensors by name, in sorted order; ranges of their elements can be read separately.

    A tensor is a float32 array of its shape, from NumPy or, on a device, from torch.
    """

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self.infos = {name: infos[name] for name in sorted(infos)}
        """Shape and dtype of each tensor."""

    @abstractmethod
    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Any:
        """Read elements `start` to `stop` of a tensor, flattened in row-major order, as stored.

        An implementation may fill `buffer` [stop - start] and return it, or return memory of its
        own; callers must not change the result.
        """

    def stored_name(self, name: str) -> str:
        """The name of a tensor in its file."""
        return name

    def change(self, name: str) -> Change | None:
        """How a tensor follows from the base's, if it is kept as a change of it; else None.

        The result is valid in this thread until the next call.
        """
        return None

    def read_bytes(self, name: str) -> int:
        """Bytes that are read for a whole tensor."""
        return self.infos[name].bytes

    @property
    def open_bytes(self) -> int:
        """Memory that each thread holds besides chunks."""
        return 0

    @property
    def arrays(self) -> int:
        """Number of arrays in memory for a chunk of a tensor."""
        return 1

    def __getitem__(self, name: str) -> Any:
        info = self.infos[name]
        stored = self.read(name, 0, info.count, np.empty(info.count, info.dtype.numpy))
        values = np.empty(info.count, np.float32)
        decode(stored, info.dtype, values)
        return values.reshape(info.shape)

    def __contains__(self, name: object) -> bool:
        return name in self.infos

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def bytes(self) -> int:
        """Size of all tensors as stored."""
        return sum(info.bytes for info in self.infos.values())


class Renamed(Checkpoint):
    """Tensors of a checkpoint under other names; a tensor may have several names, or none."""

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
        super().__init__({new: checkpoint.infos[old] for new, old in names.items()})
        self._checkpoint, self._names = checkpoint, dict(names)

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Any:
        """Read elements of a tensor by its new name."""
        return self._checkpoint.read(self._names[name], start, stop, buffer)

    def stored_name(self, name: str) -> str:
        """The name of a tensor in its file."""
        return self._checkpoint.stored_name(self._names[name])

    def change(self, name: str) -> Change | None:
        """How a tensor follows from the base's, by its new name."""
        return self._checkpoint.change(self._names[name])

    def read_bytes(self, name: str) -> int:
        """Bytes that are read for a whole tensor, by its new name."""
        return self._checkpoint.read_bytes(self._names[name])

    @property
    def open_bytes(self) -> int:
        """Memory that each thread holds besides chunks."""
        return self._checkpoint.open_bytes

    @property
    def arrays(self) -> int:
        """Number of arrays in memory for a chunk of a tensor."""
        return self._checkpoint.arrays


class InMemory(Checkpoint):
    """A checkpoint held in memory as float32."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = {
            name: np.asarray(tensor, dtype=np.float32, order="C")
            for name, tensor in tensors.items()
        }
        super().__init__(
            {
                name: TensorInfo(tensor.shape, DTYPES["float32"])
                for name, tensor in self._tensors.items()
            }
        )

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Floats:
        """Return elements of a tensor without copying them."""
        return self._tensors[name].reshape(-1)[start:stop]

    def __getitem__(self, name: str) -> Floats:
        return self._tensors[name]
