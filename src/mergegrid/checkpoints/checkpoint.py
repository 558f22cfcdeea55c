"""A checkpoint: a lazy, read-only mapping from tensor name to float32 tensor."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergegrid.checkpoints.dtypes import DTYPES, Dtype, Floats, Stored, decode


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it."""

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


class Checkpoint(Mapping[str, Any]):
    """Tensors by name, in sorted order; runs of their elements can be read one by one.

    A tensor is a float32 array of its shape: of NumPy, or of torch when it lies on a device.
    """

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self.infos = {name: infos[name] for name in sorted(infos)}
        """Shape and dtype of each tensor."""

    @abstractmethod
    def read(self, name: str, start: int, stop: int, room: Stored) -> Any:
        """Elements `start` to `stop` of a tensor flattened row by row, as stored.

        `room` [stop - start] may be filled and returned; what is returned is not to be changed.
        """

    def stored_name(self, name: str) -> str:
        """The name that a tensor has where it is stored."""
        return name

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
    """Tensors of a checkpoint under other names; one may have several, or none."""

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
        super().__init__({name: checkpoint.infos[known] for name, known in names.items()})
        self._checkpoint, self._names = checkpoint, dict(names)

    def read(self, name: str, start: int, stop: int, room: Stored) -> Any:
        """Elements of the tensor that has this name here."""
        return self._checkpoint.read(self._names[name], start, stop, room)

    def stored_name(self, name: str) -> str:
        """The name that a tensor has where it is stored."""
        return self._checkpoint.stored_name(self._names[name])


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

    def read(self, name: str, start: int, stop: int, room: Stored) -> Floats:
        """Elements of a tensor, without a copy."""
        return self._tensors[name].reshape(-1)[start:stop]

    def __getitem__(self, name: str) -> Floats:
        return self._tensors[name]
