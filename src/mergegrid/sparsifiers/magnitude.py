"""Magnitude pruning of deltas (arXiv 2311.03099, section 4.5)."""

from collections.abc import Iterable, Mapping

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.prepass import Rounds, Survey
from mergegrid.engine.thresholds import Cut, kth_smallest, smallest
from mergegrid.recipes.sparsifiers import Magnitude
from mergegrid.sparsifiers.sparsifier import (
    ExpertRun,
    Sparsified,
    elements,
    groups,
    inverse,
    kept,
    key_of,
    nothing,
    rescaled,
)


def magnitude(spec: Magnitude, expert: ExpertRun) -> Sparsified:
    """Drop exactly round(p * n) deltas of smallest magnitude, of the tensor or of the model."""
    if expert.rate == 1:
        return kept(expert, nothing(expert))
    cut: Cut = expert.answer(key_of("cut", spec, expert.expert), expert.run.name)
    delta = cut.keep(expert.run, expert.delta)
    if not spec.rescale:
        return kept(expert, delta)
    return rescaled(expert, expert.ops.scaled(delta, inverse(expert.rate)))


def cuts(spec: Magnitude, expert: str, infos: Mapping[str, TensorInfo]) -> Iterable[Survey]:
    """One cut for each group of tensors."""
    for rate, group in groups(spec, spec.scope, expert, infos):

        def rounds(rate: float = rate, group: tuple[str, ...] = group) -> Rounds:
            count = elements(infos, group)
            if spec.arithmetic == "exact":
                return (yield from smallest(group, count, rate, lambda run: run.delta(expert)))
            # All that equal the int(p * n)-th smallest go; of none, nothing does.
            bits = yield from kth_smallest(count, rate, lambda run: run.delta(expert))
            return Cut(bits or 0, group, (0, 0))

        yield Survey(key_of("cut", spec, expert), group, rounds)
