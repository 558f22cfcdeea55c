"""Multislerp: the weighted mean direction of several experts, with their mean length."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.method import MergeChunk, Method, MethodInputs, shares
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass
from mergegrid.engine.settings_checks import check_sums
from mergegrid.engine.tensors import Tensors
from mergegrid.methods.average import WeightValue
from mergegrid.methods.inner_products import Vectors, inner_products, key, vectors_of

# Below this length of the mean of unit vectors, the experts cancel out.
_CANCELLED = 1e-8


class Multislerp(Method):
    """The weighted mean direction of experts, times their mean length (mergekit's multislerp)."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, None)
    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"weights"})

    kind: Literal["multislerp"] = "multislerp"
    weights: dict[str, WeightValue] = {}
    """How near the result is to each expert, divided by their sum; unset, all are equal."""
    vectors: Vectors = "weights"
    """Whether directions are those of the experts' parameters, or of their deltas."""

    def merge(self, chunk: MergeChunk) -> Array:
        """Sum of w * u over its length, times the sum of w * length; u are unit vectors.

        Vectors are whole tensors. The published method takes a step in the tangent space at that
        mean direction, whose length is 0 by construction; so this is all it does. Where the unit
        vectors cancel out, the tensors are averaged by weight instead.
        """
        products: NDArray[np.float64] = chunk.result(key(self.vectors))
        weights = np.array(shares(chunk.numbers(self.weights)))
        merged = chunk.ops.weighted_sum(
            vectors_of(chunk, self.vectors), list(_factors(products, weights))
        )
        if self.vectors == "weights":
            return merged
        return chunk.ops.plus(chunk.base, merged, 1.0)

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that the weights do not sum to 0 for any tensor."""
        super().check_values(experts, tensors)
        check_sums(self, "weights", experts, tensors)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """Inner products between the experts, for every tensor."""
        return inner_products(inputs, self.vectors)


def _factors(products: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt(np.diag(products))
    per_unit = np.divide(weights, lengths, out=np.zeros(len(weights)), where=lengths > 0)
    length = np.sqrt(max(per_unit @ products @ per_unit, 0))
    if length < _CANCELLED:
        return weights
    factors: NDArray[np.float64] = per_unit * (weights @ lengths) / length
    return factors
