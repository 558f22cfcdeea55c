"""TALL mask: of the summed deltas what one expert needs (arXiv 2405.07813, section 4)."""

from typing import ClassVar, Literal

from mergegrid.engine.method import MergeChunk
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.values import Value
from mergegrid.methods.per_expert import PerExpertMethod
from mergegrid.sparsifiers.tall import TallArithmetic, ThresholdValue, others_of, summed


class TallMask(PerExpertMethod):
    """The summed deltas where the expert of a task needs them (TALL masks, arXiv 2405.07813).

    It makes one model per expert: what they share is the sum, of which each keeps its part by one
    bit per element.
    """

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"arithmetic", "expert"})

    kind: Literal["tall_mask"] = "tall_mask"
    expert: str | None = None
    """The expert whose model is made; a list makes one of each. A study of encoders leaves it unset
    and scores each task with the model of its expert."""
    coefficient: Value = 1.0
    """Factor of the merged delta."""
    threshold: ThresholdValue = 0.4
    """How much larger than `threshold` times the others' sum a delta must be for its expert to need
    the element; the paper searches 0.2 to 0.6 for each expert."""
    arithmetic: TallArithmetic = "exact"
    """`reference` takes, for the sum of the others, the distance of the expert from the base plus
    the sum, as the published code does; it is rounded like a weight."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * sum of the deltas, where expert k needs the element.

        It does if |delta_k| > threshold * |sum of the deltas - delta_k|, as in `consensus`. One
        expert alone is returned.
        """
        ops, deltas = chunk.ops, chunk.deltas
        total = summed(ops, deltas)
        place = self.place(tuple(chunk.experts))
        delta, weight = deltas[place], chunk.weights[place]
        others = others_of(ops, self.arithmetic, chunk.base, weight, delta, total)
        mask = ops.exceeds(delta, others, chunk.number(self.threshold))
        merged = ops.where_nonzero(mask, total)
        return ops.plus(chunk.base, merged, chunk.number(self.coefficient))
