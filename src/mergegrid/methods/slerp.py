"""SLERP: the point between two experts on the great circle through them (Shoemake 1985)."""

import math
from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs, grain_sums, shares
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.methods.average import WeightValue

# Below this sine the circle is a line in float32, and the formula would divide by almost zero.
_PARALLEL = 1e-4


class Slerp(Method):
    """The point between two experts on the great circle through them."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, 2)
    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"weights"})

    kind: Literal["slerp"] = "slerp"
    weights: dict[str, WeightValue] = {}
    """How near the result is to each of the two, divided by their sum; unset, it is half-way."""

    def merge(self, chunk: MergeChunk) -> Array:
        """(sin((1-t) a) * x + sin(t a) * y) / sin(a), with a the angle between x and y.

        Vectors are whole tensors; t is the share of the second expert's weight. Tensors that are
        parallel, opposite or zero are interpolated on the line instead: (1-t) x + t y.
        """
        near, far = shares(chunk.numbers(self.weights))
        angle = chunk.result("angle")
        if angle is None:
            return chunk.ops.weighted_sum(chunk.weights, [near, far])
        sine = math.sin(angle)
        factors = [math.sin(near * angle) / sine, math.sin(far * angle) / sine]
        return chunk.ops.weighted_sum(chunk.weights, factors)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The angle between the two experts, for every tensor."""
        return [Prepass("angle", (name,), partial(_angle, inputs)) for name in inputs.names]


def _angle(inputs: MethodInputs) -> Rounds:
    def products(chunk: Chunk) -> Array:
        first, second = inputs.merge_chunk(chunk).weights
        dots = chunk.ops.dots
        return np.stack([dots(first, first), dots(first, second), dots(second, second)])

    first, both, second = grain_sums((yield PerChunk(products)), 3)
    if first == 0 or second == 0:
        return None
    angle = math.acos(max(-1.0, min(1.0, both / math.sqrt(first * second))))
    return angle if math.sin(angle) >= _PARALLEL else None
