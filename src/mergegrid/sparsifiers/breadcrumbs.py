"""Model Breadcrumbs: drop the largest deltas and the smallest (arXiv 2312.06795, section 3.2)."""

from collections.abc import Iterable, Mapping

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.prepass import Rounds, Survey
from mergegrid.engine.thresholds import Cut, largest, smallest
from mergegrid.recipes.sparsifiers import Breadcrumbs
from mergegrid.sparsifiers.sparsifier import (
    ExpertRun,
    Sparsified,
    elements,
    groups,
    kept,
    key_of,
    nothing,
)


def breadcrumbs(spec: Breadcrumbs, expert: ExpertRun) -> Sparsified:
    """Drop round(largest * n) deltas from the top and round((p - largest) * n) from the bottom."""
    if expert.rate == 1:
        return kept(expert, nothing(expert))
    bottom, top = expert.answer(key_of("cuts", spec, expert.expert), expert.run.name)
    above = bottom.keep(expert.run, expert.delta)
    outliers = top.keep(expert.run, expert.delta)
    return kept(expert, expert.ops.subtract(above, outliers))


def cuts(spec: Breadcrumbs, expert: str, infos: Mapping[str, TensorInfo]) -> Iterable[Survey]:
    """A lower and an upper cut for each group of tensors."""
    for rate, group in groups(spec, spec.scope, expert, infos):

        def rounds(rate: float = rate, group: tuple[str, ...] = group) -> Rounds:
            count = elements(infos, group)
            bottom: Cut = yield from smallest(
                group, count, rate - spec.largest, lambda run: run.delta(expert)
            )
            top: Cut = yield from largest(group, count, spec.largest, lambda run: run.delta(expert))
            return bottom, top

        yield Survey(key_of("cuts", spec, expert), group, rounds)
