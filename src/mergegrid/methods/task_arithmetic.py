"""Task arithmetic: the base plus a multiple of the summed deltas (arXiv 2212.04089)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from mergegrid.engine.method import MergeChunk, Method, shares
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.settings_checks import check_sums
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.values import Value


class TaskArithmetic(Method):
    """The base plus a multiple of the summed deltas (arXiv 2212.04089)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"coefficients", "normalize"})

    kind: Literal["task_arithmetic"] = "task_arithmetic"
    coefficient: Value = 1.0
    """Factor of the summed deltas."""
    coefficients: dict[str, Value] = {}
    """Further factors of single experts' deltas."""
    normalize: bool = False
    """Whether the sum is divided by the sum of these further factors, of which an unset one is 1:
    the weighted mean of the deltas instead of their weighted sum."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * sum of the deltas, each times the coefficient of its expert."""
        factors = chunk.numbers(self.coefficients)
        total = chunk.ops.weighted_sum(chunk.deltas, factors)
        if self.normalize:
            total = chunk.ops.divided(total, sum(factors))
        return chunk.ops.plus(chunk.base, total, chunk.number(self.coefficient))

    def delta_factors(self, experts: Sequence[str], tensors: Tensors, name: str) -> list[float]:
        """The coefficient, times the further factor of each expert."""
        factors = tensors.numbers(self.coefficients, experts, name)
        factors = shares(factors) if self.normalize else factors
        return [tensors.number(self.coefficient, name) * factor for factor in factors]

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that the factors do not sum to 0 for any tensor, if the merge divides by them."""
        super().check_values(experts, tensors)
        if self.normalize:
            check_sums(self, "coefficients", experts, tensors)
