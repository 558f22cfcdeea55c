"""NuSLERP: the point between the deltas of two experts on a great circle (mergekit's nuslerp)."""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from mergegrid.engine.method import MergeChunk, Method, MethodInputs, shares
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass
from mergegrid.engine.settings_checks import check_sums
from mergegrid.engine.tensors import Tensors
from mergegrid.methods.average import WeightValue
from mergegrid.methods.inner_products import inner_products, key

# Below this sine the circle is a line in float32, and the formula would divide by almost zero.
_PARALLEL = 1e-4


class NuSlerp(Method):
    """The point between the deltas of two experts on the great circle through them."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, 2)
    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"weights"})

    kind: Literal["nuslerp"] = "nuslerp"
    weights: dict[str, WeightValue] = {}
    """How near the result is to each of the two, divided by their sum; unset, it is half-way."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + (sin((1-t) a) * x + sin(t a) * y) / sin(a), with a the angle of the deltas x, y.

        Vectors are whole tensors; t is the share of the second expert's weight. Deltas that are
        parallel, opposite or zero are interpolated on the line instead: (1-t) x + t y.
        """
        near, far = shares(chunk.numbers(self.weights))
        (first, both), (_, second) = chunk.result(key("deltas"))
        factors = [near, far]
        if first > 0 and second > 0:
            angle = math.acos(max(-1.0, min(1.0, both / math.sqrt(first * second))))
            sine = math.sin(angle)
            if sine >= _PARALLEL:
                factors = [math.sin(near * angle) / sine, math.sin(far * angle) / sine]
        merged = chunk.ops.weighted_sum(chunk.deltas, factors)
        return chunk.ops.plus(chunk.base, merged, 1.0)

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that the weights do not sum to 0 for any tensor."""
        super().check_values(experts, tensors)
        check_sums(self, "weights", experts, tensors)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """Inner products between the two deltas, for every tensor."""
        return inner_products(inputs, "deltas")
