"""What every method is given, and what the registry knows of it."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import is_finite
from mergegrid.engine.chunks import Run
from mergegrid.engine.ops.operations import Array, Operations
from mergegrid.engine.prepass import Survey
from mergegrid.errors import CheckpointError
from mergegrid.sparsifiers.sparsifier import Sparsified


@dataclass(frozen=True)
class MergeRun:
    """The same run of every sparsified expert of a recipe."""

    run: Run
    experts: Mapping[str, Sparsified]
    """In the order of their names, in which all sums are taken."""
    answer: Callable[[Hashable], Any]
    """The answer to one of the method's surveys."""
    statistics: Mapping[str, Checkpoint]
    """What was gathered of each expert, for methods that need data."""

    @property
    def ops(self) -> Operations:
        """Arithmetic."""
        return self.run.ops

    @property
    def base(self) -> Array:
        """Elements of the base."""
        return self.run.base

    @property
    def deltas(self) -> list[Array]:
        """Sparsified deltas."""
        return [expert.delta for expert in self.experts.values()]

    @property
    def weights(self) -> list[Array]:
        """Sparsified experts."""
        return [expert.weight for expert in self.experts.values()]

    def statistic(self, expert: str) -> Array:
        """The elements of an expert's statistics that belong to this run.

        Raises:
            CheckpointError: one is not finite.
        """
        statistics, run = self.statistics[expert], self.run

        def read() -> Array:
            dtype = statistics.infos[run.name].dtype
            room = self.ops.stored(run.count, dtype)
            stored = statistics.read(run.name, run.start, run.stop, room)
            if not is_finite(stored, dtype):
                raise not_finite(expert, run.name)
            return self.ops.load(stored, dtype)

        return run.once(id(statistics), read)


@dataclass(frozen=True)
class Subject:
    """What a method's surveys are about: a recipe's experts behind their sparsifier."""

    experts: tuple[str, ...]
    infos: Mapping[str, TensorInfo]
    """All tensors, in order."""
    merge_run: Callable[[Run], MergeRun]
    dropped: Callable[[str, str], float]
    """The rate at which deltas of an expert in a tensor became 0 at random, whatever their size."""
    statistics: Mapping[str, Checkpoint]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self.infos)

    def count(self, names: Iterable[str]) -> int:
        """Elements of some tensors."""
        return sum(self.infos[name].count for name in names)


@dataclass(frozen=True)
class Method:
    """One entry of the registry."""

    merge: Callable[[Any, MergeRun], Array]
    """Takes the spec and a run; gives the merged elements."""
    surveys: Callable[[Any, Subject], Iterable[Survey]] = lambda *_: ()
    """What must be known first."""
    rowwise: bool = False
    """Whether runs must hold whole rows."""
    statistics: bool = False
    """Whether it needs a file of statistics for each expert."""


def summed(parts: Sequence[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    """Sums [rows] of what each run gave: parts of [rows, grains]; a tensor may have no elements."""
    sums: NDArray[np.float64] = np.concatenate([np.zeros((rows, 0)), *parts], axis=1).sum(axis=1)
    return sums


def not_finite(expert: str, name: str) -> CheckpointError:
    """The error for statistics that cannot be used."""
    return CheckpointError(
        f"the statistics of expert {expert} hold NaN or infinity in {name}; gather them again"
    )


def shares(given: Mapping[str, float], experts: Sequence[str]) -> list[float]:
    """Weights of the experts, equal where none is given, with sum 1."""
    weights = [given.get(expert, 1.0) for expert in experts]
    total = sum(weights)
    return [weight / total for weight in weights]
