"""PCB: the deltas of highest score, weighted by it (PCB-Merging, arXiv 2410.02396, section 3)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import GRAIN, Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.engine.thresholds import Values, kth_smallest
from mergegrid.engine.values import Value
from mergegrid.sparsifiers.rates import Share

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_FLOAT32 = DTYPES["float32"]
# Sums of weights are at least this, as in the published code.
_LEAST = 1e-12


@dataclass(frozen=True)
class _Bounds:
    """What the scores and weights of an expert are measured by."""

    low: float
    """Magnitude to which smaller deltas are raised."""
    high: float
    """Magnitude to which larger deltas are cut."""
    cut: float = 0.0
    """Score up to which deltas are dropped."""
    top: float = 0.0
    """Highest score."""

    def clipped(self, delta: Floats) -> Doubles:
        """Deltas [n] between the two magnitudes; 0 stays 0."""
        magnitudes = np.clip(np.abs(delta.astype(np.float64)), self.low, self.high)
        clipped: Doubles = np.copysign(magnitudes, delta) * (delta != 0)
        return clipped

    def scores(self, delta: Floats, total: Floats, experts: int) -> Floats:
        """Scores [n] of deltas; 0 for those against the sum of all."""
        width = self.high - self.low
        share = (np.abs(self.clipped(delta)) - self.low) / width if width else np.zeros(delta.size)
        share = np.maximum(share, 0)
        agreement = np.tanh(np.maximum(delta.astype(np.float64) * total, 0))
        scores: Floats = (np.exp(experts * share**2) * agreement).astype(np.float32)
        return scores

    def weights(self, scores: Floats) -> Doubles:
        """Weights [n]: 0 at the cut, 1 at the highest score."""
        width = self.top - self.cut
        if not width:
            equal: Doubles = ((scores == self.top) & (scores > 0)).astype(np.float64)
            return equal
        weights: Doubles = np.maximum((scores.astype(np.float64) - self.cut) / width, 0)
        return weights


class Pcb(Method):
    """The deltas of highest score, weighted by it (PCB-Merging, arXiv 2410.02396).

    The paper's equations and the four formulas that its authors published differ. This is the one
    of their code for language models and of their example script.
    """

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"coefficients"})

    kind: Literal["pcb"] = "pcb"
    coefficient: Value = 1.0
    """Factor of the merged delta; the published code has 0.8 to 2.2, mostly 1.2."""
    coefficients: dict[str, Value] = {}
    """Further factors of single experts' deltas, which the paper searches."""
    keep: Share = 0.05
    """Share of elements of the model, of highest score, that is merged of each expert; 0.05 to 0.2
    in the published code."""
    outliers: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Share of deltas at either end, of smallest and of largest magnitude, that are set to the next
    magnitude inside; the example script has 0.0001."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * sum_k w_k c_k d_k / sum_k w_k, element by element.

        d_k is the delta of expert k of K without outliers, c_k its further factor. Its score is
        exp(K n_k^2) tanh(delta_k * sum of the deltas), with n_k = (|d_k| - min |d_k|) / (max |d_k|
        - min |d_k|) over the whole model; a delta against the sum has a score of 0. The weight w_k
        rises from 0 at the lowest of the keep * n highest scores, which is dropped, to 1 at the
        highest of all. The product in tanh makes scores depend on the size of the deltas, but
        hardly so where it is below 0.01, as it is for fine-tuned models.
        """
        bounds: list[_Bounds] = [chunk.result(self._key(expert)) for expert in chunk.experts]
        factors = chunk.numbers(self.coefficients)
        deltas = chunk.deltas
        merged = np.empty(chunk.chunk.count, np.float32)
        for part, (total, *parts) in _parts(chunk, [_total(chunk), *deltas]):
            above, below = np.zeros(total.size), np.zeros(total.size)
            for bound, delta, factor in zip(bounds, parts, factors, strict=True):
                weights = bound.weights(bound.scores(delta, total, len(deltas)))
                above += weights * factor * bound.clipped(delta)
                below += weights
            merged[part] = above / np.maximum(below, _LEAST)
        loaded = chunk.ops.load(merged, _FLOAT32)
        return chunk.ops.plus(chunk.base, loaded, chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """For each expert the bounds of magnitudes and of scores, over the whole model."""
        for expert in inputs.experts:
            rounds = partial(self._bounds, inputs, expert)
            yield Prepass(self._key(expert), inputs.names, rounds)

    def _bounds(self, inputs: MethodInputs, expert: str) -> Rounds:
        count = inputs.count(inputs.names)
        if not count:
            return _Bounds(0, 0)

        def delta(chunk: Chunk) -> Array:
            return inputs.merge_chunk(chunk).experts[expert].delta

        low = yield from _magnitude_at(int(count * self.outliers), count, delta)
        high = yield from _magnitude_at(int(count * (1 - self.outliers) - 1), count, delta)
        magnitudes = _Bounds(low, max(low, high))

        def scores(chunk: Chunk) -> Floats:
            merge_chunk = inputs.merge_chunk(chunk)
            scored = np.empty(chunk.count, np.float32)
            for part, (one, total) in _parts(merge_chunk, [delta(chunk), _total(merge_chunk)]):
                scored[part] = magnitudes.scores(one, total, len(inputs.experts))
            return scored

        index = min(int(count * (1 - self.keep)), count - 1)
        cut = yield from _magnitude_at(
            index, count, lambda chunk: chunk.ops.load(scores(chunk), _FLOAT32)
        )
        tops = yield PerChunk(lambda chunk: float(scores(chunk).max(initial=0)))
        return _Bounds(magnitudes.low, magnitudes.high, cut, max(tops))

    def _key(self, expert: str) -> tuple[object, ...]:
        return "bounds", self.keep, self.outliers, expert


def _total(chunk: MergeChunk) -> Array:
    return chunk.ops.weighted_sum(chunk.deltas, [1.0] * len(chunk.deltas))


def _parts(chunk: MergeChunk, arrays: list[Array]) -> Iterator[tuple[slice, list[Floats]]]:
    """The numbers of arrays, grain by grain, which bounds the memory for float64."""
    stored = chunk.ops.store(arrays, [_FLOAT32] * len(arrays))
    for start in range(0, chunk.chunk.count, GRAIN):
        part = slice(start, start + GRAIN)
        # The engine tells which model holds a NaN or infinity when it merges the tensor.
        with np.errstate(invalid="ignore", over="ignore"):
            yield part, [numbers[part] for numbers, _ in stored]


def _magnitude_at(index: int, count: int, values: Values) -> Rounds:
    """The magnitude at an index among all `count` in rising order."""
    # The half keeps the rank, index + 1, from rounding down.
    bits = yield from kth_smallest(count, (index + 1.5) / count, values)
    return float(np.uint32(bits).view(np.float32))
