"""The base class of merging methods, and what their arithmetic works on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import is_finite
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.ops.operations import Array, Operations
from mergegrid.engine.prepass import Prepass
from mergegrid.engine.settings_checks import check_coverage, check_experts
from mergegrid.engine.sparsifier import SparsifiedChunk
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.values import Value
from mergegrid.errors import CheckpointError
from mergegrid.settings import Settings


@dataclass(frozen=True)
class MergeChunk:
    """The same chunk of every sparsified expert of a recipe."""

    chunk: Chunk
    experts: Mapping[str, SparsifiedChunk]
    """Sorted by name, the order in which all sums are taken."""
    result: Callable[[Hashable], Any]
    """Result of a pre-pass of the method, by its key."""
    statistics: Mapping[str, Checkpoint]
    """Model statistics of each expert, for methods that need data."""
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
    def deltas(self) -> list[Array]:
        """Sparsified deltas."""
        return [expert.delta for expert in self.experts.values()]

    @property
    def weights(self) -> list[Array]:
        """Sparsified experts: base plus sparsified delta."""
        return [expert.weight for expert in self.experts.values()]

    def number(self, value: Value) -> float:
        """The number that a setting is for this tensor."""
        return self.tensors.number(value, self.chunk.name)

    def numbers(self, values: Mapping[str, Value]) -> list[float]:
        """The numbers of the experts for this tensor; 1 for an expert without a value."""
        return self.tensors.numbers(values, self.experts, self.chunk.name)

    def statistic(self, expert: str) -> Array:
        """Elements of an expert's model statistics for this chunk.

        Raises:
            CheckpointError: one is not finite.
        """
        statistics, chunk = self.statistics[expert], self.chunk

        def read() -> Array:
            dtype = statistics.infos[chunk.name].dtype
            buffer = self.ops.buffer(chunk.count, dtype)
            stored = statistics.read(chunk.name, chunk.start, chunk.stop, buffer)
            if not is_finite(stored, dtype):
                raise not_finite(expert, chunk.name)
            return self.ops.load(stored, dtype)

        return chunk.shared(id(statistics), read)


@dataclass(frozen=True)
class MethodInputs:
    """What the pre-passes of a method can see: the sparsified experts of a recipe."""

    experts: tuple[str, ...]
    infos: Tensors
    """All tensors, in order."""
    merge_chunk: Callable[[Chunk], MergeChunk]
    """The sparsified experts of a chunk."""
    drop_rate: Callable[[str, str], float]
    """Rate at which deltas of an expert in a tensor became 0 at random, whatever their size."""
    statistics: Mapping[str, Checkpoint]
    """Model statistics of each expert."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self.infos)

    def count(self, names: Iterable[str]) -> int:
        """Elements of some tensors."""
        return self.infos.count(names)

    def number(self, value: Value, name: str) -> float:
        """The number that a setting is for a tensor."""
        return self.infos.number(value, name)


class Method(Settings, ABC):
    """How the sparsified experts become one model.

    A method is a subclass with a `kind`, its settings as fields, its needs as class attributes, and
    the arithmetic in `merge`.
    """

    kind: str

    expert_count: ClassVar[tuple[int, int | None]] = (1, None)
    """Smallest and largest number of experts."""
    whole_rows: ClassVar[bool] = False
    """Whether chunks must hold whole rows."""
    needs_statistics: ClassVar[bool] = False
    """Whether it needs model statistics of every expert."""

    @abstractmethod
    def merge(self, chunk: MergeChunk) -> Array:
        """Merge a chunk."""

    def for_expert(self, expert: str) -> "Method":
        """The method that makes the model for the task of an expert; most make one for all."""
        return self

    def delta_factors(
        self, experts: Sequence[str], tensors: Tensors, name: str
    ) -> list[float] | None:
        """Factors of the deltas if the merge of a tensor is base + sum of factor * delta.

        Only then can adapters be merged into an adapter.

        Args:
            experts: the experts, sorted.
            tensors: all tensors of the model.
            name: the tensor.

        Returns:
            A factor per expert; None for a merge that is not such a sum.
        """
        return None

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """Computations over whole tensors that `merge` needs."""
        return ()

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """Memory in bytes for the whole matrices of one tensor, the one that needs most.

        Args:
            infos: tensors of the base.
            experts: number of experts.
            statistics: model statistics of each expert.
        """
        return 0

    def check(self, experts: Sequence[str]) -> None:
        """Check that the settings fit the experts.

        Raises:
            ValueError: they do not, or the method merges another number of experts.
        """
        check_experts(self, experts)
        least, most = self.expert_count
        if len(experts) < least or (most is not None and len(experts) > most):
            number = f"at least {least}"
            if most is not None:
                number = f"exactly {least}" if least == most else f"{least} to {most}"
            raise ValueError(
                f"{self.kind} merges {number} experts, but the recipe has {len(experts)} "
                f"({', '.join(sorted(experts))}); change the experts or the method"
            )

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that values by tensor fit the tensors of a model.

        Raises:
            ValueError: a value is about no tensor, or is impossible for one.
        """
        check_coverage(self, tensors)

    def check_statistics(self, base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
        """Check model statistics against the base and the settings, before anything is read.

        Raises:
            CheckpointError: they were gathered for something else, or do not fit the base.
        """


def grain_sums(parts: Sequence[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    """Sums [rows] over all grains of per-chunk values [rows, grains]; 0 without any element."""
    sums: NDArray[np.float64] = np.concatenate([np.zeros((rows, 0)), *parts], axis=1).sum(axis=1)
    return sums


def not_finite(expert: str, name: str) -> CheckpointError:
    """The error for model statistics that are NaN or infinite."""
    return CheckpointError(
        f"the model statistics of expert {expert} hold NaN or infinity in {name}; gather them again"
    )


def shares(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum."""
    total = sum(weights)
    return [weight / total for weight in weights]
