"""Model Stock: between average and base, by the angle between experts (arXiv 2403.19522)."""

from collections.abc import Iterable
from functools import partial
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs, grain_sums
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds


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
        return chunk.ops.plus(chunk.base, total, chunk.result("ratio") / experts)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """t of every tensor."""
        return [Prepass("ratio", (name,), partial(_ratio, inputs)) for name in inputs.names]


def _ratio(inputs: MethodInputs) -> Rounds:
    experts = len(inputs.experts)
    pairs = [(i, i) for i in range(experts)] + list(combinations(range(experts), 2))

    def products(chunk: Chunk) -> Array:
        deltas = inputs.merge_chunk(chunk).deltas
        return np.stack([chunk.ops.dots(deltas[i], deltas[j]) for i, j in pairs])

    sums = grain_sums((yield PerChunk(products)), len(pairs))
    dots = dict(zip(pairs, sums, strict=True))
    cosines = [
        dots[i, j] / np.sqrt(dots[i, i] * dots[j, j]) if dots[i, i] and dots[j, j] else 0.0
        for i, j in combinations(range(experts), 2)
    ]
    cosine = max(0.0, float(np.mean(cosines)))
    return experts * cosine / (1 + (experts - 1) * cosine)
