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


class ModelStock(Method):
    """Average and base, mixed by the angle between the experts (arXiv 2403.19522)."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, None)

    kind: Literal["model_stock"] = "model_stock"

    def merge(self, chunk: MergeChunk) -> Array:
        """base + t * mean of the deltas, with t = K cos / (1 + (K-1) cos) for every tensor (eq. 2).

        cos is the mean cosine between the deltas of two experts, and 0 where a delta is zero. A
        negative cos counts as 0: t would exceed 1 or change sign.
        """
        experts = len(chunk.experts)
        total = chunk.ops.weighted_sum(chunk.deltas, [1.0] * experts)
        return chunk.ops.plus(chunk.base, total, _ratio(chunk.result(key("deltas"))) / experts)

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
