"""Model Breadcrumbs: drop the largest deltas and the smallest (arXiv 2312.06795, section 3.2)."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import model_validator

from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, all_dropped, kept
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.thresholds import Cut, largest, smallest
from mergegrid.sparsifiers.rates import (
    RatedSparsifier,
    RateValue,
    Scope,
    cut_together,
    kept_in_mergekit,
)


class Breadcrumbs(RatedSparsifier):
    """Drop the largest deltas and the smallest (arXiv 2312.06795, section 3.2)."""

    omitted_when_default: ClassVar[frozenset[str]] = RatedSparsifier.omitted_when_default | {
        "arithmetic",
        "largest_of",
    }

    kind: Literal["breadcrumbs"] = "breadcrumbs"
    largest: RateValue = 0.01
    """Share of deltas, of largest magnitude, that is among those dropped."""
    largest_of: dict[str, RateValue] = {}
    """These shares of single experts, instead of `largest`."""
    scope: Scope = "per_tensor"
    """Whether shares are of each tensor or of the whole model: with rules, of all tensors of one
    rate."""
    arithmetic: Literal["exact", "mergekit"] = "exact"
    """`mergekit` keeps int((1-p) * n) deltas below the int(largest * n) that are largest."""

    @model_validator(mode="after")
    def _largest_is_part_of_the_rate(self) -> "Breadcrumbs":
        rates = (self.rate, *self.rates.values(), *(rule.rate for rule in self.rules))
        if isinstance(self.largest, float) and not self.largest_of:
            for rate in rates:
                if isinstance(rate, float) and 0 < rate < self.largest:
                    raise ValueError(_too_large(self.largest, rate))
        return self

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that `largest` is a part of the rate of every tensor and expert."""
        super().check_values(experts, tensors)
        for expert in experts:
            for name in tensors:
                rate, top = self._shares(expert, name, tensors)
                if 0 < rate < top:
                    raise ValueError(_too_large(top, rate, f" of expert {expert} in {name}"))

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Drop round(largest * n) deltas at the top, round((p - largest) * n) at the bottom."""
        if expert.rate == 1:
            return kept(expert, all_dropped(expert))
        bottom, top = expert.result(self.key("cuts", expert.expert), expert.chunk.name)
        above = bottom.keep(expert.chunk, expert.delta)
        outliers = top.keep(expert.chunk, expert.delta)
        return kept(expert, expert.ops.subtract(above, outliers))

    def prepasses(self, expert: str, infos: Tensors) -> Iterable[Prepass]:
        """A lower and an upper cut for each group of tensors."""
        shares = {name: self._shares(expert, name, infos) for name in infos}
        partly = {name: share for name, share in shares.items() if 0 < share[0] < 1}
        for (rate, top), names in cut_together(self.scope, partly):
            count = infos.count(names)
            low = rate - top
            if self.arithmetic == "mergekit":
                dropped = count - kept_in_mergekit(rate, count)
                low = max(0, dropped - int(top * count)) / count
                top = dropped / count - low
            rounds = partial(_cuts, expert, names, count, low, top)
            yield Prepass(self.key("cuts", expert), names, rounds)

    def _shares(self, expert: str, name: str, tensors: Tensors) -> tuple[float, float]:
        """What is dropped of a tensor of an expert in all, and at the top."""
        top = self.largest_of.get(expert, self.largest)
        return tensors.number(self.rate_of(expert, name), name), tensors.number(top, name)


def _cuts(expert: str, names: tuple[str, ...], count: int, low: float, high: float) -> Rounds:
    bottom: Cut = yield from smallest(names, count, low, lambda chunk: chunk.delta(expert))
    top: Cut = yield from largest(names, count, high, lambda chunk: chunk.delta(expert))
    return bottom, top


def _too_large(top: float, rate: float, where: str = "") -> str:
    return (
        f"largest = {top:g} exceeds the rate {rate:g}{where}, of which it is a part; "
        "lower largest or raise the rate"
    )
