"""Model Stock: between average and base, by the angle between experts (arXiv 2403.19522)."""

from collections.abc import Iterable
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass
from mergegrid.methods.inner_products import inner_products, key

# mergekit takes a product of two lengths for at least this, and a smaller divisor of t for 0.
_SMALL_IN_MERGEKIT = 1e-6


class ModelStock(Method):
    """Average and base, mixed by the angle between the experts (arXiv 2403.19522)."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, None)

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"arithmetic"})

    kind: Literal["model_stock"] = "model_stock"
    arithmetic: Literal["exact", "mergekit"] = "exact"
    """`mergekit` lets a negative cosine count, and divides by at least 1e-6 instead of a smaller
    product of two lengths, so that the cosine of tensors that have hardly changed is smaller."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + t * mean of the deltas, with t = K cos / (1 + (K-1) cos) for every tensor (eq. 2).

        cos is the mean cosine between the deltas of two experts, and 0 where a delta is zero. A
        negative cos counts as 0: t would exceed 1 or change sign.
        """
        experts = len(chunk.experts)
        total = chunk.ops.weighted_sum(chunk.deltas, [1.0] * experts)
        products = chunk.result(key("deltas"))
        ratio = _ratio_in_mergekit if self.arithmetic == "mergekit" else _ratio
        return chunk.ops.plus(chunk.base, total, ratio(products) / experts)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """Inner products between the deltas, for every tensor."""
        return inner_products(inputs, "deltas")


def _ratio(products: NDArray[np.float64]) -> float:
    count = len(products)
    cosines = [
        products[i, j] / np.sqrt(products[i, i] * products[j, j])
        if products[i, i] and products[j, j]
        else 0.0
        for i, j in combinations(range(count), 2)
    ]
    cosine = max(0.0, float(np.mean(cosines)))
    return count * cosine / (1 + (count - 1) * cosine)


def _ratio_in_mergekit(products: NDArray[np.float64]) -> float:
    count = len(products)
    lengths = np.sqrt(np.diag(products))
    cosines = [
        np.clip(products[i, j] / max(lengths[i] * lengths[j], _SMALL_IN_MERGEKIT), -1, 1)
        for i, j in combinations(range(count), 2)
    ]
    cosine = float(np.mean(cosines))
    divisor = 1 + (count - 1) * cosine
    return 0.0 if abs(divisor) < _SMALL_IN_MERGEKIT else count * cosine / divisor
