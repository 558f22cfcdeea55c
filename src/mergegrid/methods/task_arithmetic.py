"""Task arithmetic: the base plus a multiple of the summed deltas (arXiv 2212.04089)."""

from typing import ClassVar, Literal

from mergegrid.engine.method import MergeChunk, Method
from mergegrid.engine.ops.operations import Array


class TaskArithmetic(Method):
    """The base plus a multiple of the summed deltas (arXiv 2212.04089)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"coefficients"})

    kind: Literal["task_arithmetic"] = "task_arithmetic"
    coefficient: float = 1.0
    """Factor of the summed deltas."""
    coefficients: dict[str, float] = {}
    """Further factors of single experts' deltas."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * sum of the deltas, each times the coefficient of its expert."""
        factors = [self.coefficients.get(expert, 1.0) for expert in chunk.experts]
        total = chunk.ops.weighted_sum(chunk.deltas, factors)
        return chunk.ops.plus(chunk.base, total, self.coefficient)
