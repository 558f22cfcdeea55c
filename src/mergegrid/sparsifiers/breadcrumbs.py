"""Model Breadcrumbs: drop the largest deltas and the smallest (arXiv 2312.06795, section 3.2)."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

from pydantic import model_validator

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, all_dropped, kept
from mergegrid.engine.thresholds import Cut, largest, smallest
from mergegrid.sparsifiers.rates import Rate, RatedSparsifier, Scope


class Breadcrumbs(RatedSparsifier):
    """Drop the largest deltas and the smallest (arXiv 2312.06795, section 3.2)."""

    kind: Literal["breadcrumbs"] = "breadcrumbs"
    largest: Rate = 0.01
    """Share of deltas, of largest magnitude, that is among those dropped."""
    scope: Scope = "per_tensor"
    """Whether shares are of each tensor or of the whole model: with rules, of all tensors of one
    rate."""

    @model_validator(mode="after")
    def _largest_is_part_of_the_rate(self) -> "Breadcrumbs":
        for rate in (self.rate, *self.rates.values(), *(rule.rate for rule in self.rules)):
            if 0 < rate < self.largest:
                raise ValueError(
                    f"largest = {self.largest} exceeds the rate {rate}, of which it is a part; "
                    "lower largest or raise the rate"
                )
        return self

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Drop round(largest * n) deltas at the top, round((p - largest) * n) at the bottom."""
        if expert.rate == 1:
            return kept(expert, all_dropped(expert))
        bottom, top = expert.result(self.key("cuts", expert.expert), expert.chunk.name)
        above = bottom.keep(expert.chunk, expert.delta)
        outliers = top.keep(expert.chunk, expert.delta)
        return kept(expert, expert.ops.subtract(above, outliers))

    def prepasses(self, expert: str, infos: Mapping[str, TensorInfo]) -> Iterable[Prepass]:
        """A lower and an upper cut for each group of tensors."""
        for rate, names in self.groups(self.scope, expert, infos):
            count = sum(infos[name].count for name in names)
            rounds = partial(self._cuts, expert, names, count, rate)
            yield Prepass(self.key("cuts", expert), names, rounds)

    def _cuts(self, expert: str, names: tuple[str, ...], count: int, rate: float) -> Rounds:
        bottom: Cut = yield from smallest(
            names, count, rate - self.largest, lambda chunk: chunk.delta(expert)
        )
        top: Cut = yield from largest(names, count, self.largest, lambda chunk: chunk.delta(expert))
        return bottom, top
