"""Root sum: the summed deltas over the root of their number."""

import math
from typing import Literal

from mergegrid.engine.method import MergeChunk, Method
from mergegrid.engine.ops.operations import Array


class RootSum(Method):
    """The base plus the sum of the deltas over the root of their number.

    The merged delta has the norm of one delta when the deltas are orthogonal and of one norm.
    """

    kind: Literal["root_sum"] = "root_sum"
    coefficient: float = 1.0
    """Factor of the merged delta."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * sum_k delta_k / sqrt(K)."""
        total = chunk.ops.weighted_sum(chunk.deltas, [1.0] * len(chunk.experts))
        return chunk.ops.plus(chunk.base, total, self.coefficient / math.sqrt(len(chunk.experts)))
