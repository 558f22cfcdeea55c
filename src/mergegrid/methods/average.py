"""Average: the mean of the experts (arXiv 2203.05482)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mergegrid.engine.method import MergeChunk, Method
from mergegrid.engine.ops.operations import Array

Weight = Annotated[float, Field(ge=0)]


class Average(Method):
    """The mean of the experts (arXiv 2203.05482)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"weights"})

    kind: Literal["average"] = "average"
    weights: dict[str, Weight] = {}
    """Weight of each expert, divided by their sum; unset, all are equal."""

    def merge(self, chunk: MergeChunk) -> Array:
        """Weighted sum of the experts over the sum of weights; equal experts return to the bit."""
        if len(chunk.experts) == 1:
            return chunk.weights[0]
        weights = [self.weights.get(expert, 1.0) for expert in chunk.experts]
        return chunk.ops.weighted_mean(chunk.weights, weights)
