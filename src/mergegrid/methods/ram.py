"""RAM: the mean of the deltas over the experts that change an element (arXiv 2601.13572)."""

from collections.abc import Iterable
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs, grain_sums
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.methods.average import WeightValue


class Ram(Method):
    """Mean of the deltas over the experts that change an element (RAM, arXiv 2601.13572)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"boost"})

    kind: Literal["ram"] = "ram"
    threshold: WeightValue = 0.0
    """Magnitude above which a delta counts as a change; smaller ones are lost. The published code
    has 1e-5, which in bfloat16 is less than one step for weights above 0.002."""
    boost: Annotated[float, Field(ge=1)] = 1.0
    """RAM+: the largest factor of elements that only one expert changes; 1.05 in the paper."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + mean of the deltas over the experts that change the element.

        With `boost` r, an element that only expert k changes is multiplied by
        1 + (r-1) * min(1, shared_k / unique_k): the numbers, in the whole model, of elements that k
        changes along with another expert and alone.
        """
        ops = chunk.ops
        changes, count = _changes(chunk, chunk.number(self.threshold))
        deltas = [
            ops.where_nonzero(change, delta)
            for change, delta in zip(changes, chunk.deltas, strict=True)
        ]
        factors = [1.0] * len(deltas) if self.boost == 1 else chunk.result(self._key())
        several = _several(chunk, count)
        mean = ops.quotient(ops.weighted_sum(deltas, [1.0] * len(deltas)), count)
        merged = ops.where_changed(several, ops.weighted_sum(deltas, factors), mean)
        return ops.plus(chunk.base, merged, 1.0)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The factor of each expert's own elements, from counts over the whole model."""
        if self.boost > 1:
            yield Prepass(self._key(), inputs.names, partial(self._factors, inputs))

    def _factors(self, inputs: MethodInputs) -> Rounds:
        def counts(chunk: Chunk) -> Array:
            merge_chunk = inputs.merge_chunk(chunk)
            changes, count = _changes(merge_chunk, merge_chunk.number(self.threshold))
            several = _several(merge_chunk, count)
            pairs = [(change, change) for change in changes]
            return chunk.ops.dots_of(pairs + [(change, several) for change in changes])

        sums = grain_sums((yield PerChunk(counts)), 2 * len(inputs.experts))
        changed, shared = np.split(sums, 2)
        ratios = [
            1.0 if both >= total - both else both / (total - both)
            for total, both in zip(changed, shared, strict=True)
        ]
        return [1 + (self.boost - 1) * float(ratio) for ratio in ratios]

    def _key(self) -> tuple[object, ...]:
        return "factors", self.threshold, self.boost


def _changes(chunk: MergeChunk, threshold: float) -> tuple[list[Array], Array]:
    """Masks of the elements that each expert changes, and in how many experts each is changed."""
    ops = chunk.ops
    one = ops.plus_number(ops.scaled(chunk.base, 0.0), 1.0)
    changes = [ops.exceeds(delta, one, threshold) for delta in chunk.deltas]
    return changes, ops.weighted_sum(changes, [1.0] * len(changes))


def _several(chunk: MergeChunk, count: Array) -> Array:
    """Mask of the elements that more than one expert changes."""
    ops = chunk.ops
    one = ops.plus_number(ops.scaled(count, 0.0), 1.0)
    return ops.exceeds(count, one, 1.5)
