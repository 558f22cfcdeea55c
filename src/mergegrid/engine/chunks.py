"""A run: the same elements of one tensor, in the base and in every expert."""

from collections.abc import Callable, Hashable, Iterable, Mapping

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.engine.masks import mask_key
from mergegrid.engine.ops.operations import Array, Operations
from mergegrid.errors import CheckpointError

Witness = Callable[[str, str, int, Stored], None]
"""Told what was read: model, tensor, first element, elements as stored."""


class Run:
    """Elements `start` to `stop` of a tensor, flattened row by row; read when first asked for."""

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        name: str,
        start: int,
        stop: int,
        ops: Operations,
        witness: Witness | None = None,
    ) -> None:
        self.name, self.start, self.stop, self.ops = name, start, stop, ops
        self._models, self._witness = models, witness
        self.bytes_read = 0
        """Bytes of the models that were read for this run."""
        self._weights: dict[str, Array] = {}
        self._deltas: dict[str, Array] = {}
        self._words: dict[tuple[int, str], Array] = {}
        self._made: dict[Hashable, Array] = {}

    @property
    def models(self) -> Iterable[str]:
        """Names of all models: the base, and the experts."""
        return self._models

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    @property
    def base(self) -> Array:
        """Elements of the base."""
        return self.weight(BASE)

    def weight(self, model: str) -> Array:
        """Elements of an expert, or of the base."""
        if model not in self._weights:
            self._weights[model] = self._read(model)
        return self._weights[model]

    def delta(self, expert: str) -> Array:
        """Expert minus base."""
        if expert not in self._deltas:
            self._deltas[expert] = self.ops.subtract(self.weight(expert), self.base)
        return self._deltas[expert]

    def words(self, seed: int, expert: str) -> Array:
        """The random words that decide what a sparsifier keeps of an expert."""
        if (seed, expert) not in self._words:
            key = mask_key(seed, expert, self.name)
            self._words[seed, expert] = self.ops.words(key, self.start, self.count)
        return self._words[seed, expert]

    def once(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """What else is made for this run, once, by whichever of its recipes asks first."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @property
    def row(self) -> int:
        """Elements of one row of the tensor."""
        return row_of(self._models[BASE].infos[self.name].shape)

    def _read(self, model: str) -> Array:
        checkpoint = self._models[model]
        dtype = checkpoint.infos[self.name].dtype
        room = self.ops.stored(self.count, dtype)
        stored = checkpoint.read(self.name, self.start, self.stop, room)
        if len(stored) != self.count:
            raise CheckpointError(
                f"{self.name} has {len(stored)} of the {self.count} elements from {self.start} on "
                f"in {f'expert {model}' if model else 'the base'}; download the model again"
            )
        self.bytes_read += stored.nbytes
        if self._witness:
            self._witness(model, self.name, self.start, stored)
        return self.ops.load(stored, dtype)


#: The base among the models of a run; no expert can have this name.
BASE = ""


def row_of(shape: tuple[int, ...]) -> int:
    """Elements of one row: everything but the first dimension; all of a vector."""
    length = 1
    for size in shape[1:] if len(shape) > 1 else shape:
        length *= size
    return length
