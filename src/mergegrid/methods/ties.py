"""TIES: trim, elect a sign, average what agrees with it (arXiv 2306.01708, section 4)."""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.masks import surely_drop
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.engine.thresholds import Cut, kth_smallest, smallest
from mergegrid.engine.values import Value
from mergegrid.methods.average import WeightValue
from mergegrid.sparsifiers.rates import RateValue, Scope, cut_together, kept_in_mergekit


class Ties(Method):
    """Trim, elect a sign, average what agrees with it (arXiv 2306.01708)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset(
        {"arithmetic", "normalize", "weights"}
    )

    kind: Literal["ties"] = "ties"
    coefficient: Value = 1.0
    """Factor of the merged delta."""
    trim: RateValue = 0.8
    """Share of deltas of smallest magnitude that each expert loses before the election."""
    scope: Scope = "global"
    """Whether the share is trimmed of each tensor or of the whole model: if it differs by tensor,
    of all tensors of one share."""
    weights: dict[str, WeightValue] = {}
    """Weight of each expert in the election and in what is added; unset, all are 1."""
    normalize: bool = True
    """Whether agreeing deltas are averaged by their weights; if not, they are summed, each times
    its weight."""
    arithmetic: Literal["exact", "reference", "mergekit"] = "exact"
    """`reference` keeps all deltas equal to the threshold and settles a sum of zero by the sign of
    most parameters, as the paper's code does. `mergekit` keeps int((1 - trim) * n) deltas, or
    one, and a sum of zero elects the positive ones."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * mean of the trimmed deltas that agree with the elected sign.

        Each expert loses exactly round(trim * n) deltas of smallest magnitude. The elected sign is
        that of the sum of weight * trimmed delta; where the sum is zero, nothing is added. The mean
        is by weight, over the experts whose trimmed delta is not zero and has that sign; without
        `normalize` it is their weighted sum. The order is: sparsify, trim, elect, merge. When a
        sparsifier has already dropped more than `trim`, its zeros are what is trimmed, and the trim
        removes nothing further.
        """
        undecided = 1.0 if self.arithmetic == "mergekit" else 0.0
        if self.arithmetic == "reference":
            undecided = float(np.sign(chunk.result(self._majority_key())))
        deltas = self._trimmed(chunk)
        weights = chunk.numbers(self.weights)
        if self.normalize and set(weights) == {1.0}:
            merged = chunk.ops.agreeing_mean(deltas, weights, undecided)
        else:
            merged = chunk.ops.elected_sum(deltas, weights, undecided, self.normalize)
        return chunk.ops.plus(chunk.base, merged, chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """A cut for each expert and group of tensors; for the reference, the majority sign."""
        trims = {name: inputs.number(self.trim, name) for name in inputs.names}
        for trim, group in cut_together(self.scope, trims):
            for expert in inputs.experts:
                rounds = partial(self._cut, inputs, expert, group, trim)
                yield Prepass(self._key(trim, expert), group, rounds)
        if self.arithmetic == "reference":
            rounds = partial(self._majority, inputs)
            yield Prepass(self._majority_key(), inputs.names, rounds, after=True)

    def _trimmed(self, chunk: MergeChunk) -> list[Array]:
        """Deltas of every expert without the smallest."""
        trim = chunk.number(self.trim)
        cuts: list[Cut] = [chunk.result(self._key(trim, expert)) for expert in chunk.experts]
        pairs = zip(cuts, chunk.deltas, strict=True)
        return [cut.keep(chunk.chunk, delta) for cut, delta in pairs]

    def _majority(self, inputs: MethodInputs) -> Rounds:
        def net_sign(chunk: Chunk) -> int:
            merge_chunk = inputs.merge_chunk(chunk)
            weights = merge_chunk.numbers(self.weights)
            return chunk.ops.net_sign(chunk.ops.weighted_sum(self._trimmed(merge_chunk), weights))

        return sum((yield PerChunk(net_sign)))

    def _cut(
        self, inputs: MethodInputs, expert: str, names: tuple[str, ...], trim: float
    ) -> Rounds:
        def delta(chunk: Chunk) -> Array:
            return inputs.merge_chunk(chunk).experts[expert].delta

        count = inputs.count(names)
        if self.arithmetic == "reference":
            # Deltas as large as the int(trim * n)-th smallest are kept, equal ones included.
            bits = yield from kth_smallest(count, trim, delta)
            return Cut(bits or 0, names, (len(names), 0))
        least = round(trim * count)
        if self.arithmetic == "mergekit":
            least = count - max(1, kept_in_mergekit(trim, count))
        dropped = [(inputs.infos[name].count, inputs.drop_rate(expert, name)) for name in names]
        if surely_drop(dropped, least):
            # Only zeros are trimmed.
            return Cut(0, names, (0, 0))
        return (yield from smallest(names, count, least / max(count, 1), delta))

    def _key(self, trim: float, expert: str) -> tuple[object, ...]:
        return "cut", trim, self.scope, self.arithmetic, expert

    def _majority_key(self) -> tuple[object, ...]:
        return "majority", self.trim, self.scope, tuple(sorted(self.weights.items()))
