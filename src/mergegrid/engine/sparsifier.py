"""The base class of sparsifiers, and the chunk of an expert that they work on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.masks import threshold
from mergegrid.engine.ops.operations import LARGEST_BITS, Array, Operations
from mergegrid.engine.prepass import Prepass
from mergegrid.engine.settings_checks import check_coverage, check_experts
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.values import Value
from mergegrid.hashing import canonical_json
from mergegrid.settings import Settings


@dataclass(frozen=True)
class ExpertChunk:
    """A chunk of one expert, before the sparsifier."""

    chunk: Chunk
    expert: str
    """Name of the expert, on which its masks depend."""
    rate: float
    """Share p that is dropped of this tensor."""
    experts: tuple[str, ...]
    """All experts of the recipe, sorted by name."""
    result: Callable[[Hashable, str], Any]
    """Result of a pre-pass of the sparsifier: by its key, for a tensor."""
    tensors: Tensors
    """All tensors of the model."""

    @property
    def ops(self) -> Operations:
        """Arithmetic."""
        return self.chunk.ops

    @property
    def base(self) -> Array:
        """Elements of the base."""
        return self.chunk.base

    @property
    def weight(self) -> Array:
        """Elements of the expert."""
        return self.chunk.weight(self.expert)

    @property
    def delta(self) -> Array:
        """Expert minus base."""
        return self.chunk.delta(self.expert)

    def number(self, value: Value) -> float:
        """The number that a setting is for this tensor."""
        return self.tensors.number(value, self.chunk.name)

    def thinned(self, values: Array, seed: int, factor: float) -> Array:
        """values * factor where the random mask of this rate keeps them, else 0."""
        words = self.chunk.random_words(seed, self.expert)
        return self.ops.thin(words, threshold(self.rate), values, factor)


class SparsifiedChunk:
    """A chunk of an expert after the sparsifier: its delta and its parameters, computed lazily."""

    def __init__(self, delta: Callable[[], Array], weight: Callable[[], Array]) -> None:
        self._compute_delta, self._compute_weight = delta, weight
        self._delta: Array = None
        self._weight: Array = None

    @property
    def delta(self) -> Array:
        """The sparsified delta."""
        if self._delta is None:
            self._delta = self._compute_delta()
        return self._delta

    @property
    def weight(self) -> Array:
        """Base plus sparsified delta: the expert to the bit where all is kept, else the base."""
        if self._weight is None:
            self._weight = self._compute_weight()
        return self._weight


class Sparsifier(Settings, ABC):
    """What happens to the deltas of each expert before merging.

    A sparsifier is a subclass with a `kind`, its settings as fields, and the arithmetic in `apply`.
    """

    kind: str

    at_random: ClassVar[bool] = False
    """Whether each delta becomes 0 with the rate as probability, whatever its magnitude."""
    whole_rows: ClassVar[bool] = False
    """Whether chunks must hold whole rows."""

    def rate_of(self, expert: str, tensor: str) -> Value:
        """Share p that is dropped of a tensor; at 0 it stays unchanged, without a call of `apply`.

        Sparsifiers without a rate keep this default.
        """
        return 1.0

    @abstractmethod
    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Sparsify a chunk."""

    def prepasses(self, expert: str, infos: Tensors) -> Iterable[Prepass]:
        """Computations over whole tensors that `apply` needs; their keys name the expert."""
        return ()

    def key(self, name: str, expert: str) -> Hashable:
        """Key of a pre-pass that depends on all settings of the sparsifier."""
        return name, canonical_json(self.model_dump(mode="json")), expert

    def check(self, experts: Sequence[str]) -> None:
        """Check that the settings fit the experts.

        Raises:
            ValueError: they refer to an expert that is not there.
        """
        check_experts(self, experts)

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that values by tensor fit the tensors of a model.

        Raises:
            ValueError: a value is about no tensor, or is impossible for one.
        """
        check_coverage(self, tensors)


def unchanged(expert: ExpertChunk) -> SparsifiedChunk:
    """Every delta is kept, and the expert's elements as they are."""
    return SparsifiedChunk(lambda: expert.delta, lambda: expert.weight)


def kept(expert: ExpertChunk, delta: Array) -> SparsifiedChunk:
    """Deltas of which some became 0 and none was rescaled."""
    return SparsifiedChunk(
        lambda: delta, lambda: expert.ops.where_changed(delta, expert.base, expert.weight)
    )


def rescaled(expert: ExpertChunk, delta: Array) -> SparsifiedChunk:
    """Deltas of which some became 0 and the others were rescaled."""
    return SparsifiedChunk(lambda: delta, lambda: expert.ops.plus(expert.base, delta, 1.0))


def all_dropped(expert: ExpertChunk) -> Array:
    """Deltas that are all 0."""
    return expert.ops.keep_large(expert.delta, LARGEST_BITS, 0)


def inverse(rate: float) -> float:
    """1/(1-p), the factor that keeps the expected delta; 0 at p=1, where nothing is left."""
    return 0.0 if rate == 1 else 1 / (1 - rate)
