"""SCE: select, calculate, erase (FuseChat 3.2, arXiv 2408.07990)."""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Literal

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs, grain_sums
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.engine.thresholds import Cut, largest
from mergegrid.sparsifiers.rates import ShareValue

# mergekit gives all experts the same weight if their mean squares sum to less.
_SMALL_IN_MERGEKIT = 1e-6


class Sce(Method):
    """Select, calculate, erase: deltas of high variance, weighted by energy (arXiv 2408.07990)."""

    expert_count: ClassVar[tuple[int, int | None]] = (2, None)
    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"arithmetic"})

    kind: Literal["sce"] = "sce"
    select: ShareValue = 1.0
    """Share of elements, of largest variance over the experts, that is merged of each tensor."""
    arithmetic: Literal["exact", "mergekit"] = "exact"
    """`mergekit` selects int(select * n) of the n elements that vary at all; gives all experts the
    same weight where the mean squared deltas of a tensor sum to less than 1e-6, as those of most
    fine-tuned models do; and lets a sum of zero elect the positive deltas."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + weighted mean of the selected deltas that agree with the sign of their sum.

        Select: of each tensor, the elements whose variance over the experts is largest. Calculate:
        an expert's weight is its share of the summed squares of the selected deltas. Erase: deltas
        against the sign of the sum; the weights of the others are divided by their sum. Where fewer
        elements vary at all than `select` would take, those that vary are selected.
        """
        cut, weights = chunk.result(self._key(chunk.number(self.select)))
        undecided = 1.0 if self.arithmetic == "mergekit" else 0.0
        merged = chunk.ops.agreeing_mean(_selected(cut, chunk), weights, undecided)
        return chunk.ops.plus(chunk.base, merged, 1.0)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The selection of each tensor, and the weights of the experts there."""
        shares = {name: inputs.number(self.select, name) for name in inputs.names}
        return [
            Prepass(self._key(share), (name,), partial(self._selection, inputs, name, share))
            for name, share in shares.items()
        ]

    def _selection(self, inputs: MethodInputs, name: str, share: float) -> Rounds:
        size = inputs.infos[name].count
        cut: Cut | None = None
        if share < 1:
            if self.arithmetic == "mergekit":
                varying = yield PerChunk(
                    lambda chunk: chunk.ops.net_sign(_variance(inputs.merge_chunk(chunk)))
                )
                share = int(sum(varying) * share) / size
            cut = yield from largest(
                (name,), size, share, lambda chunk: _variance(inputs.merge_chunk(chunk))
            )

        def squares(chunk: Chunk) -> Array:
            deltas = _selected(cut, inputs.merge_chunk(chunk))
            return chunk.ops.dots_of([(delta, delta) for delta in deltas])

        energies = grain_sums((yield PerChunk(squares)), len(inputs.experts))
        count, total = len(energies), energies.sum()
        small = self.arithmetic == "mergekit" and total / size < _SMALL_IN_MERGEKIT
        if total == 0 or small:
            return cut, [1.0 / count] * count
        return cut, [float(energy) for energy in energies / total]

    def _key(self, share: float) -> tuple[str, float, str]:
        return "selection", share, self.arithmetic


def _selected(cut: Cut | None, chunk: MergeChunk) -> list[Array]:
    if cut is None:
        return chunk.deltas
    mask = cut.keep(chunk.chunk, _variance(chunk))
    return [chunk.ops.where_nonzero(mask, delta) for delta in chunk.deltas]


def _variance(chunk: MergeChunk) -> Array:
    """Variance of the deltas over the experts (population), element by element."""
    ops, deltas = chunk.ops, chunk.deltas
    ones = [1.0] * len(deltas)
    mean = ops.divided(ops.weighted_sum(deltas, ones), len(deltas))
    centered = [ops.subtract(delta, mean) for delta in deltas]
    squares = ops.weighted_sum([ops.product(values, values) for values in centered], ones)
    return ops.divided(squares, len(deltas))
