"""Consensus: the summed deltas where enough experts need them (arXiv 2405.07813, section 5)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mergegrid.engine.method import MergeChunk, Method
from mergegrid.engine.ops.operations import Array, Operations
from mergegrid.engine.values import Value
from mergegrid.sparsifiers.tall import TallArithmetic, ThresholdValue, others_of, summed


class Consensus(Method):
    """Summed deltas where at least two experts need them (Consensus TA, arXiv 2405.07813)."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, None)
    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"arithmetic", "thresholds"})

    kind: Literal["consensus"] = "consensus"
    coefficient: Value = 1.0
    """Factor of the merged delta."""
    threshold: ThresholdValue = 0.4
    """How much larger than `threshold` times the others' sum a delta must be for its expert to need
    the element; the paper searches 0.2 to 0.6 for each expert."""
    thresholds: dict[str, ThresholdValue] = {}
    """Thresholds of single experts, instead of `threshold`."""
    agreement: Annotated[int, Field(ge=1)] = 2
    """Number of experts that must need an element; it becomes the base's where fewer do."""
    arithmetic: TallArithmetic = "exact"
    """`reference` takes, for the sum of the others, the distance of the expert from the base plus
    the sum, as the published code does; it is rounded like a weight."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * sum of the deltas, where enough experts need the element.

        Expert k needs an element if |delta_k| > threshold * |sum of the deltas - delta_k|. The sum
        is taken in float32, in the order of the experts' names; an element that no expert changed
        is needed by none. K equal experts need all elements if threshold * (K-1) < 1, else none.
        """
        ops, deltas = chunk.ops, chunk.deltas
        total = summed(ops, deltas)
        needs = []
        for expert, weight, delta in zip(chunk.experts, chunk.weights, deltas, strict=True):
            others = others_of(ops, self.arithmetic, chunk.base, weight, delta, total)
            threshold = chunk.number(self.thresholds.get(expert, self.threshold))
            needs.append(ops.exceeds(delta, others, threshold))
        merged = ops.where_nonzero(at_least(ops, needs, self.agreement), total)
        return ops.plus(chunk.base, merged, chunk.number(self.coefficient))

    def check(self, experts: Sequence[str]) -> None:
        """Check that so many experts can agree.

        Raises:
            ValueError: `agreement` exceeds the number of experts.
        """
        super().check(experts)
        if self.agreement > len(experts):
            raise ValueError(
                f"agreement = {self.agreement}, but the recipe has {len(experts)} experts "
                f"({', '.join(sorted(experts))}), so the result would be the base; lower it"
            )


def at_least(ops: Operations, masks: Sequence[Array], count: int) -> Array:
    """1 where at least `count` of the masks [n] of 0 and 1 are 1, else 0."""
    total = ops.weighted_sum(masks, [1.0] * len(masks))
    one = ops.plus_number(ops.scaled(total, 0.0), 1.0)
    return ops.exceeds(total, one, count - 0.5)
