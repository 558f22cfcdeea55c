"""SLERP: a point on the great circle through two models (Shoemake 1985)."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar, Literal

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs, grain_sums, shares
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.engine.settings_checks import check_sums
from mergegrid.engine.tensors import Tensors
from mergegrid.methods.average import WeightValue
from mergegrid.sparsifiers.rates import RateValue

# Below this sine the circle is a line in float32, and the formula would divide by almost zero.
_PARALLEL = 1e-4
# mergekit takes the line from this cosine on.
_PARALLEL_IN_MERGEKIT = 0.9995
_HALF_WAY = 0.5


class Slerp(Method):
    """A point on the great circle through two experts, or through the base and one expert."""

    expert_count: ClassVar[tuple[int, int | None]] = (1, 2)
    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"arithmetic", "t", "weights"})

    kind: Literal["slerp"] = "slerp"
    weights: dict[str, WeightValue] = {}
    """How near the result is to each of two experts, divided by their sum; unset, it is half-way.
    """
    t: RateValue = _HALF_WAY
    """Where the result of one expert is: 0 is the base, 1 the expert."""
    arithmetic: Literal["exact", "mergekit"] = "exact"
    """`mergekit` takes the line instead of the circle where the size of the cosine is above 0.9995;
    `exact` where the sine is below 1e-4, which changes no float32 number."""

    def merge(self, chunk: MergeChunk) -> Array:
        """(sin((1-t) a) * x + sin(t a) * y) / sin(a), with a the angle between x and y.

        Vectors are whole tensors. x and y are two experts, and t is the share of the second
        expert's weight; or they are the base and the one expert. Tensors that are parallel,
        opposite or zero are interpolated on the line instead: (1-t) x + t y.
        """
        near, far = self._shares(chunk)
        pair = _pair(chunk)
        angle = chunk.result("angle")
        if angle is not None and not self._is_line(angle):
            sine = math.sin(angle)
            factors = [math.sin(near * angle) / sine, math.sin(far * angle) / sine]
            return chunk.ops.weighted_sum(pair, factors)
        merged = chunk.ops.weighted_sum(pair, [near, far])
        if len(chunk.experts) == 2:
            return merged
        return chunk.ops.where_changed(chunk.deltas[0], chunk.base, merged)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The angle between the two models, for every tensor."""
        return [Prepass("angle", (name,), partial(_angle, inputs)) for name in inputs.names]

    def check(self, experts: Sequence[str]) -> None:
        """Check that two experts have `weights` and one expert has `t`.

        Raises:
            ValueError: it is the other way round, or there are more experts.
        """
        super().check(experts)
        if len(experts) == 1 and self.weights:
            raise ValueError(
                f"slerp.weights are for two experts; with {experts[0]} alone, slerp goes from the "
                "base to it: give `t` instead"
            )
        if len(experts) == 2 and self.t != _HALF_WAY:
            raise ValueError(
                f"slerp.t is for one expert; between {' and '.join(sorted(experts))}, give "
                "`weights` instead"
            )

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that the weights do not sum to 0 for any tensor."""
        super().check_values(experts, tensors)
        check_sums(self, "weights", experts, tensors)

    def _shares(self, chunk: MergeChunk) -> list[float]:
        if len(chunk.experts) == 2:
            return shares(chunk.numbers(self.weights))
        t = chunk.number(self.t)
        return [1 - t, t]

    def _is_line(self, angle: float) -> bool:
        if self.arithmetic == "mergekit":
            return abs(math.cos(angle)) > _PARALLEL_IN_MERGEKIT
        return math.sin(angle) < _PARALLEL


def _pair(chunk: MergeChunk) -> list[Array]:
    """The two models between which the result is."""
    return chunk.weights if len(chunk.experts) == 2 else [chunk.base, *chunk.weights]


def _angle(inputs: MethodInputs) -> Rounds:
    """The angle between the two models; None if one is zero."""

    def products(chunk: Chunk) -> Array:
        first, second = _pair(inputs.merge_chunk(chunk))
        return chunk.ops.dots_of([(first, first), (first, second), (second, second)])

    first, both, second = grain_sums((yield PerChunk(products)), 3)
    if first == 0 or second == 0:
        return None
    return math.acos(max(-1.0, min(1.0, both / math.sqrt(first * second))))
