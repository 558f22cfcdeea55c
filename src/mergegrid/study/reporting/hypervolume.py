"""Hypervolume of scores: how much of the space of all tasks' scores some models reach."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def volume(points: Array) -> float:
    """Return the volume of the union of the boxes from the origin to each point.

    It is what the first box adds to the others, and so on (While, Bradstreet and Barone 2012).

    Args:
        points: scores of at least 0, shape (models, tasks).
    """
    points = _not_dominated(points)
    return sum(
        float(point.prod()) - volume(np.minimum(points[index + 1 :], point))
        for index, point in enumerate(points)
    )


def added_volume(merge: Array, experts: Array) -> float:
    """Return the volume that a merge adds to that of its experts; 0 if an expert dominates it.

    Scores are divided by those of the best expert of each task, and negative ones count as 0. So a
    merge that is as good as the best expert on every task adds 1 minus the volume of the experts.

    Args:
        merge: scores of the merge, shape (tasks,).
        experts: scores of the single experts, shape (experts, tasks), above 0 for the best of each
            task.
    """
    best = experts.max(axis=0)
    merge, experts = np.maximum(merge / best, 0), np.maximum(experts / best, 0)
    return float(merge.prod()) - volume(np.minimum(experts, merge))


def _not_dominated(points: Array) -> Array:
    """Return the points, each once, that no other one is at least as good as everywhere."""
    points = np.unique(points, axis=0)
    at_least = (points[:, None] >= points[None]).all(axis=2)  # [one, other]
    left: Array = points[at_least.sum(axis=0) == 1]
    return left
