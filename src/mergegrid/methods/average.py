"""Average: the mean of the experts (arXiv 2203.05482)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from mergegrid.engine.method import MergeChunk, Method, shares
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.settings_checks import check_sums
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.values import FORM, NUMBER, Varying, within

Weight = Annotated[float, Field(ge=0)]
WeightValue = TypeAliasType(
    "WeightValue", Annotated[Annotated[Weight, NUMBER] | Varying, FORM, within(Weight)]
)
"""A weight that may differ by layer and module."""


class Average(Method):
    """The mean of the experts (arXiv 2203.05482)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"weights", "normalize"})

    kind: Literal["average"] = "average"
    weights: dict[str, WeightValue] = {}
    """Weight of each expert, divided by their sum; unset, all are equal."""
    normalize: bool = True
    """Whether weights are divided by their sum; if not, experts are summed, each times its weight,
    or 1."""

    def merge(self, chunk: MergeChunk) -> Array:
        """Weighted sum of the experts over the sum of weights; equal experts return to the bit."""
        weights = chunk.numbers(self.weights)
        if not self.normalize:
            return chunk.ops.weighted_sum(chunk.weights, weights)
        if len(chunk.experts) == 1:
            return chunk.weights[0]
        return chunk.ops.weighted_mean(chunk.weights, weights)

    def delta_factors(
        self, experts: Sequence[str], tensors: Tensors, name: str
    ) -> list[float] | None:
        """Weights over their sum; without normalization, weights that sum to 1."""
        weights = tensors.numbers(self.weights, experts, name)
        if not self.normalize:
            return weights if sum(weights) == 1 else None
        return shares(weights)

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that the weights do not sum to 0 for any tensor."""
        super().check_values(experts, tensors)
        if self.normalize:
            check_sums(self, "weights", experts, tensors)
