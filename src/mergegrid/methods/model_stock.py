"""Model Stock: between average and base, by the angle between experts (arXiv 2403.19522)."""

from collections.abc import Iterable
from functools import partial
from itertools import combinations

import numpy as np

from mergegrid.engine.chunks import Run
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Each, Rounds, Survey
from mergegrid.methods.method import MergeRun, Subject, summed
from mergegrid.recipes.methods import ModelStock


def model_stock(spec: ModelStock, run: MergeRun) -> Array:
    """base + t * mean of the deltas, with t = K cos / (1 + (K-1) cos) for every tensor (eq. 2).

    cos is the mean cosine between the deltas of two experts, and 0 where a delta is zero. It is
    taken as 0 when it is negative: t would grow beyond 1, or change sign.
    """
    experts = len(run.experts)
    total = run.ops.weighted_sum(run.deltas, [1.0] * experts)
    return run.ops.plus(run.base, total, run.answer("ratio") / experts)


def ratios(spec: ModelStock, subject: Subject) -> Iterable[Survey]:
    """t of every tensor."""
    return [Survey("ratio", (name,), partial(_ratio, subject)) for name in subject.names]


def _ratio(subject: Subject) -> Rounds:
    experts = len(subject.experts)
    pairs = [(i, i) for i in range(experts)] + list(combinations(range(experts), 2))

    def products(run: Run) -> Array:
        deltas = subject.merge_run(run).deltas
        return np.stack([run.ops.dots(deltas[i], deltas[j]) for i, j in pairs])

    sums = summed((yield Each(products)), len(pairs))
    dots = dict(zip(pairs, sums, strict=True))
    cosines = [
        dots[i, j] / np.sqrt(dots[i, i] * dots[j, j]) if dots[i, i] and dots[j, j] else 0.0
        for i, j in combinations(range(experts), 2)
    ]
    cosine = max(0.0, float(np.mean(cosines)))
    return experts * cosine / (1 + (experts - 1) * cosine)
