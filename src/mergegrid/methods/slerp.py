"""SLERP: the point between two experts on the great circle through them (Shoemake 1985)."""

import math
from collections.abc import Iterable
from functools import partial

import numpy as np

from mergegrid.engine.chunks import Run
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Each, Rounds, Survey
from mergegrid.methods.method import MergeRun, Subject, shares, summed
from mergegrid.recipes.methods import Slerp

# Below this sine the circle is a line in float32, and the formula would divide by nothing.
_PARALLEL = 1e-4


def slerp(spec: Slerp, run: MergeRun) -> Array:
    """(sin((1-t) a) * x + sin(t a) * y) / sin(a), with a the angle between x and y.

    Vectors are whole tensors; t is the share of the second expert's weight. Tensors that are
    parallel, opposite or zero are interpolated on the line instead: (1-t) x + t y.
    """
    near, far = shares(spec.weights, list(run.experts))
    angle = run.answer("angle")
    if angle is None:
        return run.ops.weighted_sum(run.weights, [near, far])
    factors = [math.sin(near * angle) / math.sin(angle), math.sin(far * angle) / math.sin(angle)]
    return run.ops.weighted_sum(run.weights, factors)


def angles(spec: Slerp, subject: Subject) -> Iterable[Survey]:
    """The angle between the two experts, for every tensor."""
    return [Survey("angle", (name,), partial(_angle, subject)) for name in subject.names]


def _angle(subject: Subject) -> Rounds:
    def products(run: Run) -> Array:
        one, other = subject.merge_run(run).weights
        dots = run.ops.dots
        return np.stack([dots(one, one), dots(one, other), dots(other, other)])

    first, both, second = summed((yield Each(products)), 3)
    if first == 0 or second == 0:
        return None
    angle = math.acos(max(-1.0, min(1.0, both / math.sqrt(first * second))))
    return angle if math.sin(angle) >= _PARALLEL else None
