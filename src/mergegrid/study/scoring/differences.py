"""Estimates of many differences, from answers that are read once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mergegrid.study.scoring.design import Design, Pair
from mergegrid.study.scoring.levels import (
    Contrast,
    Estimate,
    Floats,
    TaskOutcomes,
    estimate,
    for_other_experts,
    measure,
)

LEVEL = 0.05
"""Corrected p-values below it tell two sides apart."""
FEWEST = 3
"""Fewest independent experts from which anything is said about others."""


@dataclass(frozen=True)
class Difference:
    """A difference between two sides."""

    here: Estimate
    """For the experts at hand."""
    others: Estimate | None
    """For other experts like these; None for one set, or for too few experts."""


def differences(
    pairs: Sequence[tuple[Design, Pair]], values: Floats, tasks: Iterable[TaskOutcomes]
) -> list[Difference]:
    """Estimate the differences between pairs of sides that have something in common.

    Args:
        pairs: sides to compare, each with the design that they are of.
        values: score of every model, [all models].
        tasks: the answers of the models, task by task.
    """
    contrasts: dict[tuple[Design, Pair], Contrast] = {}
    for design, pair in pairs:
        for part in (pair, *design.on_sets(pair)):
            made = design.contrast_of(part)
            assert made is not None, f"{part} have nothing in common"
            contrasts[design, part] = made
    measured = dict(zip(contrasts, measure(list(contrasts.values()), values, tasks), strict=True))
    estimates = []
    for design, pair in pairs:
        whole = measured[design, pair]
        sets = [measured[design, part] for part in design.on_sets(pair)]
        here = estimate(whole, sets, design.independent(pair), over_sets=not pair.experts)
        between = whole.between.get("sets")
        enough = between is not None and between.units >= FEWEST
        others = for_other_experts(here, between) if between and enough else None
        estimates.append(Difference(here, others))
    return estimates


def apart(gaps: Sequence[Estimate], comparisons: int = 1) -> list[bool]:
    """Return which of the others the best of several sides can be told apart from.

    The best was chosen by its score, so its differences are some of those between all pairs, which
    are corrected for (Games and Howell 1976). That it is better than all others is one claim and
    needs no correction (Hung and Fithian 2019).

    Args:
        gaps: difference of the best to each other side.
        comparisons: number of such choices that a correction is made for.
    """
    level = LEVEL / comparisons
    if all(gap.p < level for gap in gaps):
        return [True] * len(gaps)
    return [gap.differs(level, len(gaps) + 1) for gap in gaps]
