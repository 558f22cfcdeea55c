"""Magnitude pruning of deltas (arXiv 2311.03099, section 4.5)."""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Literal

from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.sparsifier import (
    ExpertChunk,
    SparsifiedChunk,
    all_dropped,
    inverse,
    kept,
    rescaled,
)
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.thresholds import Cut, kth_smallest, smallest
from mergegrid.sparsifiers.rates import RatedSparsifier, Scope, kept_in_mergekit


class Magnitude(RatedSparsifier):
    """Drop the deltas of smallest magnitude (arXiv 2311.03099, section 4.5)."""

    omitted_when_default: ClassVar[frozenset[str]] = RatedSparsifier.omitted_when_default | {
        "arithmetic"
    }

    kind: Literal["magnitude"] = "magnitude"
    scope: Scope = "per_tensor"
    """Whether the share is dropped of each tensor or of the whole model: with rules, of all
    tensors of one rate."""
    rescale: bool = False
    """Whether to multiply the rest by 1/(1-p)."""
    arithmetic: Literal["exact", "reference", "mergekit"] = "exact"
    """`exact` drops round(p * n) deltas; `reference` int(p * n) and all that are equal to the
    largest of them, as the paper's code does; `mergekit` keeps int((1-p) * n), or one."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Drop exactly round(p * n) deltas of smallest magnitude, of the tensor or of the model."""
        if expert.rate == 1:
            return kept(expert, all_dropped(expert))
        cut: Cut = expert.result(self.key("cut", expert.expert), expert.chunk.name)
        delta = cut.keep(expert.chunk, expert.delta)
        if not self.rescale:
            return kept(expert, delta)
        return rescaled(expert, expert.ops.scaled(delta, inverse(expert.rate)))

    def prepasses(self, expert: str, infos: Tensors) -> Iterable[Prepass]:
        """One cut for each group of tensors."""
        for rate, names in self.groups(self.scope, expert, infos):
            rounds = partial(self._cut, expert, names, infos.count(names), rate)
            yield Prepass(self.key("cut", expert), names, rounds)

    def _cut(self, expert: str, names: tuple[str, ...], count: int, rate: float) -> Rounds:
        if self.arithmetic == "mergekit":
            rate = 1 - max(1, kept_in_mergekit(rate, count)) / count
        if self.arithmetic != "reference":
            return (yield from smallest(names, count, rate, lambda chunk: chunk.delta(expert)))
        # All deltas equal to the int(p * n)-th smallest are dropped; if that rank is 0, none is.
        bits = yield from kth_smallest(count, rate, lambda chunk: chunk.delta(expert))
        return Cut(bits or 0, names, (0, 0))
