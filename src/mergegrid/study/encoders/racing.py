"""Races of candidates over growing parts of a split (successive halving).

Jamieson and Talwalkar (2016), arXiv 1502.07943. One race selects for the mean over some tasks.
Several, one per task, run side by side, so that a candidate is merged once for all of them.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mergegrid.progress import progress
from mergegrid.study.encoders.parts import Part
from mergegrid.study.schema.racing import Racing

STAGE_VERSIONS = {"race": 1}

Heads = tuple[str, ...]
"""The experts on whose tasks one candidate is selected."""
Evaluate = Callable[[int, Mapping[str, Part | None]], Sequence[Mapping[str, float]]]
"""Scores of a candidate, given by its position, by head, for each of its mask seeds; a head comes
with the part of its split, or with None for the whole split."""


def race(
    candidates: int,
    selections: Sequence[Heads],
    racing: Racing | None,
    examples: Mapping[str, int],
    evaluate: Evaluate,
    description: str,
) -> dict[Heads, int]:
    """Find the best candidate of each selection by the mean over its heads and over mask seeds.

    Of equal candidates, the first stays in the race and wins.

    Args:
        candidates: number of candidates.
        selections: the heads that one candidate is selected for; no head is in two selections.
        racing: how candidates drop out; without it, all are compared on the whole split.
        examples: number of examples of the split by head.
        evaluate: scores a candidate.
        description: what is compared, for reports of progress.

    Returns:
        Position of the best candidate by selection.
    """
    left = {heads: list(range(candidates)) for heads in selections}
    heats = {
        heads: racing.heats(candidates, [examples[head] for head in heads]) if racing else []
        for heads in selections
    }
    for turn in range(max(map(len, heats.values()), default=0)):
        running = [heads for heads in selections if turn < len(heats[heads])]
        parts: dict[str, Part | None] = {}
        for heads in running:
            sizes = [heat.sizes for heat in heats[heads][: turn + 1]]
            for head, ends in zip(heads, zip(*sizes, strict=True), strict=True):
                parts[head] = Part(racing.seed if racing else 0, ends)
        means = _means({heads: left[heads] for heads in running}, parts, evaluate, description)
        for heads in running:
            # Sorting is stable, in reverse, too.
            best_first = sorted(left[heads], key=means[heads].__getitem__, reverse=True)
            left[heads] = sorted(best_first[: heats[heads][turn].kept])
    whole = {head: None for heads in selections for head in heads}
    means = _means(left, whole, evaluate, description)
    # `max` returns the first of equals.
    return {heads: max(left[heads], key=means[heads].__getitem__) for heads in selections}


def _means(
    left: Mapping[Heads, Sequence[int]],
    parts: Mapping[str, Part | None],
    evaluate: Evaluate,
    description: str,
) -> dict[Heads, dict[int, float]]:
    """Evaluate every candidate that is left in some selection on the heads of these selections."""
    means: dict[Heads, dict[int, float]] = {heads: {} for heads in left}
    compared = sorted({one for candidates in left.values() for one in candidates})
    for one in progress(compared, description, len(compared)):
        running = [heads for heads, candidates in left.items() if one in candidates]
        scores = evaluate(one, {head: parts[head] for heads in running for head in heads})
        for heads in running:
            values = [by_head[head] for by_head in scores for head in heads]
            means[heads][one] = float(np.mean(values))
    return means
