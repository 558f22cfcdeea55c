"""Karcher: the mean of the experts on the sphere (arXiv 2603.04972)."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass
from mergegrid.methods.inner_products import inner_products, key, vectors_of

Floats = NDArray[np.float64]
_STEPS = 100
# Angles come from inner products in float64; smaller steps are rounding.
_TOLERANCE = 1e-10


class Karcher(Method):
    """Mean direction of the experts on the sphere, times their mean length (arXiv 2603.04972)."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, None)

    kind: Literal["karcher"] = "karcher"

    def merge(self, chunk: MergeChunk) -> Array:
        """The point whose squared angles to the experts, summed, are smallest.

        Vectors are whole tensors. The result has the mean length of the experts; a tensor that is
        all zero in an expert is left out. It is iterated until steps are below 1e-10 rad; where the
        experts cancel out, the mean of the tensors stands in.
        """
        factors = _factors(chunk.result(key("weights")))
        return chunk.ops.weighted_sum(vectors_of(chunk, "weights"), list(factors))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """Inner products between the experts, for every tensor."""
        return inner_products(inputs, "weights")


def _factors(products: Floats) -> Floats:
    """Factors [K] of the experts by their inner products [K, K]."""
    lengths = np.sqrt(np.diag(products))
    there = lengths > 0
    factors = np.zeros(len(lengths))
    if not there.any():
        return factors
    cosines = products[np.ix_(there, there)] / np.outer(lengths[there], lengths[there])
    mean = _mean_direction(cosines)
    if mean is None:
        return np.full(len(lengths), 1 / len(lengths))
    factors[there] = mean * lengths[there].mean() / lengths[there]
    return factors


def _mean_direction(cosines: Floats) -> Floats | None:
    """Coordinates [K] of the mean in the unit vectors whose inner products [K, K] are given."""
    count = len(cosines)
    mean = np.full(count, 1 / count)
    length = np.sqrt(max(mean @ cosines @ mean, 0))
    if length < _TOLERANCE:
        return None
    mean /= length
    for _ in range(_STEPS):
        along = np.clip(cosines @ mean, -1, 1)
        angles = np.arccos(along)
        sines = np.sin(angles)
        # At angle 0 the limit of angle / sin(angle) is 1.
        pull = np.divide(angles, sines, out=np.ones(count), where=sines > _TOLERANCE) / count
        tangent = pull - (pull @ along) * mean
        step = np.sqrt(max(tangent @ cosines @ tangent, 0))
        if step < _TOLERANCE:
            break
        mean = np.cos(step) * mean + np.sin(step) / step * tangent
        mean /= np.sqrt(mean @ cosines @ mean)
    return mean
