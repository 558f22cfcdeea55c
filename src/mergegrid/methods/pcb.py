"""PCB: the deltas of highest score, weighted by it (PCB-Merging, arXiv 2410.02396, section 3)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import GRAIN, Array
from mergegrid.engine.prepass import Prepass, Rounds
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
        clipped: Doubles = np.copysign(self._magnitudes(delta), delta) * (delta != 0)
        return clipped

    def scores(self, delta: Floats, total: Floats, experts: int) -> Floats:
        """Scores [n] of deltas; 0 for those against the sum of all."""
        share = self._magnitudes(delta)
        share -= self.low
        if width := self.high - self.low:
            share /= width
        scores = np.exp(experts * share**2)
        agreement = np.multiply(delta, total, dtype=np.float64)
        np.maximum(agreement, 0, out=agreement)
        scores *= np.tanh(agreement, out=agreement)
        return scores.astype(np.float32)

    def weights(self, scores: Floats) -> Doubles:
        """Weights [n]: 0 at the cut, 1 at the highest score."""
        width = self.top - self.cut
        if not width:
            equal: Doubles = ((scores == self.top) & (scores > 0)).astype(np.float64)
            return equal
        weights: Doubles = np.maximum((scores.astype(np.float64) - self.cut) / width, 0)
        return weights

    def _magnitudes(self, delta: Floats) -> Doubles:
        magnitudes = np.abs(delta).astype(np.float64)
        return np.clip(magnitudes, self.low, self.high, out=magnitudes)


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
        bounds = [
            replace(self._bounds(chunk, expert), cut=cut, top=top)
            for expert in chunk.experts
            for cut, top in [chunk.result(self._score_key(expert))]
        ]
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
        """For each expert the bounds of magnitudes, then those of scores, over the whole model."""
        count = inputs.count(inputs.names)
        places = int(count * self.outliers), int(count * (1 - self.outliers) - 1)
        for expert in inputs.experts:
            for key, place in zip(self._magnitude_keys(expert), places, strict=True):
                yield Prepass(key, inputs.names, partial(self._magnitude, inputs, expert, place))
        for expert in inputs.experts:
            rounds = partial(self._scores, inputs, expert)
            yield Prepass(self._score_key(expert), inputs.names, rounds, after=True)

    def _magnitude(self, inputs: MethodInputs, expert: str, place: int) -> Rounds:
        """The magnitude of the deltas of an expert at a place among all in rising order."""

        def delta(chunk: Chunk) -> Array:
            return inputs.merge_chunk(chunk).experts[expert].delta

        return (yield from _magnitude_at(place, inputs.count(inputs.names), delta))

    def _scores(self, inputs: MethodInputs, expert: str) -> Rounds:
        """The cut of the scores of an expert, and the highest."""
        count, tops = inputs.count(inputs.names), [0.0]

        def scores(chunk: Chunk) -> Array:
            merge_chunk = inputs.merge_chunk(chunk)
            bounds = self._bounds(merge_chunk, expert)
            arrays = [merge_chunk.experts[expert].delta, _total(merge_chunk)]
            scored = np.empty(chunk.count, np.float32)
            for part, (delta, total) in _parts(merge_chunk, arrays):
                scored[part] = bounds.scores(delta, total, len(inputs.experts))
            # Finding the cut takes a pass over all chunks at least.
            tops.append(float(scored.max(initial=0)))
            return chunk.ops.load(scored, _FLOAT32)

        place = min(int(count * (1 - self.keep)), count - 1)
        cut = yield from _magnitude_at(place, count, scores)
        return cut, max(tops)

    def _bounds(self, chunk: MergeChunk, expert: str) -> _Bounds:
        """The bounds of magnitudes, which scores are measured by."""
        low, high = (chunk.result(key) for key in self._magnitude_keys(expert))
        return _Bounds(low, max(low, high))

    def _magnitude_keys(self, expert: str) -> list[tuple[object, ...]]:
        return [(end, self.outliers, expert) for end in ("low", "high")]

    def _score_key(self, expert: str) -> tuple[object, ...]:
        return "scores", self.keep, self.outliers, expert


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
    """The magnitude at an index among all `count` in rising order; 0 of none."""
    if not count:
        return 0.0
    # The half keeps the rank, index + 1, from rounding down.
    bits = yield from kth_smallest(count, (index + 1.5) / count, values)
    return float(np.uint32(bits).view(np.float32))
