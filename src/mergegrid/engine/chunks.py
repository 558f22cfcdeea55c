"""A chunk: the same elements of one tensor, in the base and in every expert."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.engine.masks import mask_key
from mergegrid.engine.ops.operations import Array, Operations
from mergegrid.errors import CheckpointError
from mergegrid.kernels.product import Product

_FLOAT32 = DTYPES["float32"]
#: The base among the models of a chunk; no expert can have this name.
BASE = ""

OnRead = Callable[[str, str, int, Stored], None]
"""Callback for everything that is read: model, tensor, first element, elements as stored."""


class Chunk:
    """Elements `start` to `stop` of a tensor, flattened row by row; read on first use."""

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        name: str,
        start: int,
        stop: int,
        ops: Operations,
        on_read: OnRead | None = None,
    ) -> None:
        self.name, self.start, self.stop, self.ops = name, start, stop, ops
        self._models, self._on_read = models, on_read
        self.bytes_read = 0
        """Bytes of the models that were read for this chunk."""
        self._weights: dict[str, Array] = {}
        self._deltas: dict[str, Array] = {}
        self._random_words: dict[tuple[int, str], Array] = {}
        self._shared: dict[Hashable, Array] = {}

    @property
    def models(self) -> Iterable[str]:
        """Names of all models: the base and the experts."""
        return self._models

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self._models[BASE].infos[self.name].shape

    @property
    def row(self) -> int:
        """Elements of one row of the tensor."""
        return row_length(self.shape)

    @property
    def base(self) -> Array:
        """Elements of the base."""
        return self.weight(BASE)

    def weight(self, model: str) -> Array:
        """Elements of an expert, or of the base."""
        if model not in self._weights:
            change = self._models[model].change(self.name)
            if change is None:
                weight = self._read(model)
            elif change.product is None:
                weight = self.base
            else:
                weight = self.ops.plus(self.base, self.delta(model), 1.0)
            self._weights[model] = weight
        return self._weights[model]

    def delta(self, expert: str) -> Array:
        """Expert minus base; straight from an adapter where the expert is one."""
        if expert not in self._deltas:
            change = self._models[expert].change(self.name)
            if change is None or change.product is None:
                delta = self.ops.subtract(self.weight(expert), self.base)
            else:
                delta = self._changed(change.product, change.growth)
            self._deltas[expert] = delta
        return self._deltas[expert]

    def random_words(self, seed: int, expert: str) -> Array:
        """One 32-bit random word per element, which decides whether a mask keeps the delta."""
        if (seed, expert) not in self._random_words:
            key = mask_key(seed, expert, self.name)
            self._random_words[seed, expert] = self.ops.random_words(key, self.start, self.count)
        return self._random_words[seed, expert]

    def shared(self, key: Hashable, compute: Callable[[], Array]) -> Array:
        """A further array of this chunk, computed once for all recipes that use it."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]

    def _changed(self, product: Product, growth: Product | None) -> Array:
        """The delta of an adapter; see `Change`."""
        delta = self._elements(product)
        if growth is None:
            return delta
        grown = self.ops.product(self._elements(growth), self.ops.plus(self.base, delta, 1.0))
        return self.ops.plus(delta, grown, 1.0)

    def _elements(self, product: Product) -> Array:
        buffer = self.ops.buffer(self.count, _FLOAT32)
        product.elements(self.start, buffer)
        return self.ops.load(buffer, _FLOAT32)

    def _read(self, model: str) -> Array:
        checkpoint = self._models[model]
        dtype = checkpoint.infos[self.name].dtype
        buffer = self.ops.buffer(self.count, dtype)
        stored = checkpoint.read(self.name, self.start, self.stop, buffer)
        if len(stored) != self.count:
            raise CheckpointError(
                f"{f'expert {model}' if model else 'the base'}: only {len(stored)} of the "
                f"{self.count} elements from {self.start} on of {self.name} could be read; "
                "download the model again"
            )
        self.bytes_read += stored.nbytes
        if self._on_read:
            self._on_read(model, self.name, self.start, stored)
        return self.ops.load(stored, dtype)


def row_length(shape: tuple[int, ...]) -> int:
    """Elements of one row: all dimensions but the first; all elements of a vector."""
    return math.prod(shape[1:] if len(shape) > 1 else shape)
