"""TALL masks: the deltas that count beside the sum of all others (arXiv 2405.07813, section 4)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mergegrid.engine.ops.operations import Array, Operations
from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, Sparsifier, kept
from mergegrid.engine.values import FORM, NUMBER, Varying, within

Threshold = Annotated[float, Field(ge=0)]
ThresholdValue = Annotated[Annotated[Threshold, NUMBER] | Varying, FORM, within(Threshold)]
"""A threshold that may differ by layer and module."""
TallArithmetic = Literal["exact", "reference"]


class Tall(Sparsifier):
    """Keep the deltas that count beside the sum of all others (TALL masks, arXiv 2405.07813)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"arithmetic", "thresholds"})

    kind: Literal["tall"] = "tall"
    threshold: ThresholdValue = 0.4
    """How much larger than `threshold` times the others' sum a delta must be to be kept; the paper
    searches 0.2 to 0.6 for each expert."""
    thresholds: dict[str, ThresholdValue] = {}
    """Thresholds of single experts, instead of `threshold`."""
    arithmetic: TallArithmetic = "exact"
    """`reference` compares the delta with the distance of the expert from the base plus the sum, as
    the published code does; it is rounded like a weight, so small deltas are decided otherwise."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Keep delta_k where |delta_k| > threshold * |sum of all experts' deltas - delta_k|.

        The others become 0, and nothing is rescaled. The sum is over the experts of the recipe, in
        float32 and in the order of their names. One expert alone is returned.
        """
        chunk = expert.chunk
        total = chunk.shared(
            ("sum of deltas", expert.experts),
            lambda: summed(expert.ops, [chunk.delta(name) for name in expert.experts]),
        )
        threshold = expert.number(self.thresholds.get(expert.expert, self.threshold))
        others = others_of(
            expert.ops, self.arithmetic, expert.base, expert.weight, expert.delta, total
        )
        mask = expert.ops.exceeds(expert.delta, others, threshold)
        return kept(expert, expert.ops.where_nonzero(mask, expert.delta))


def summed(ops: Operations, deltas: Sequence[Array]) -> Array:
    """The sum of deltas, in float32 and in their order."""
    return ops.weighted_sum(deltas, [1.0] * len(deltas))


def others_of(
    ops: Operations,
    arithmetic: TallArithmetic,
    base: Array,
    weight: Array,
    delta: Array,
    total: Array,
) -> Array:
    """What all other experts change: the sum without an expert's own delta.

    A mask keeps an element where |delta| > threshold * |others|: nowhere where both are 0.
    """
    if arithmetic == "reference":
        return ops.subtract(ops.plus(base, total, 1.0), weight)
    return ops.subtract(total, delta)
