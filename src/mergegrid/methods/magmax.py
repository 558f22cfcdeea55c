"""MagMax: of every element the largest delta (arXiv 2407.06322)."""

from typing import Literal

from mergegrid.engine.method import MergeChunk, Method
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.values import Value


class MagMax(Method):
    """Of every element, the delta of largest magnitude over the experts (arXiv 2407.06322)."""

    kind: Literal["magmax"] = "magmax"
    coefficient: Value = 1.0
    """Factor of the merged delta; 0.5 to 0.8 is common for experts trained independently."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * the delta of largest magnitude.

        Of equal magnitudes, that of the first expert by name counts; the published code takes the
        last in the order of training.
        """
        ops, (largest, *others) = chunk.ops, chunk.deltas
        for delta in others:
            largest = ops.where_changed(ops.exceeds(delta, largest, 1.0), largest, delta)
        return ops.plus(chunk.base, largest, chunk.number(self.coefficient))
