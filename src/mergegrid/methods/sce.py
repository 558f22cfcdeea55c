"""SCE: select, calculate, erase (FuseChat 3.2, arXiv 2408.07990)."""

from collections.abc import Iterable
from functools import partial

import numpy as np

from mergegrid.engine.chunks import Run
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Each, Rounds, Survey
from mergegrid.engine.thresholds import Cut, largest
from mergegrid.methods.method import MergeRun, Subject, summed
from mergegrid.recipes.methods import Sce


def sce(spec: Sce, run: MergeRun) -> Array:
    """base + weighted mean of the selected deltas that agree with the sign of their sum.

    Select: of each tensor, the elements whose variance over the experts is largest. Calculate: an
    expert's weight is its share of the summed squares of what is selected. Erase: deltas against
    the sign of the sum; the weights of the others are divided by their sum. Where fewer elements
    vary at all than `select` would take, those that vary are selected.
    """
    cut, weights = run.answer(_key(spec))
    merged = run.ops.agreeing_mean(_selected(cut, run), weights)
    return run.ops.plus(run.base, merged, 1.0)


def selections(spec: Sce, subject: Subject) -> Iterable[Survey]:
    """What is selected of each tensor, and the weights of the experts there."""
    return [
        Survey(_key(spec), (name,), partial(_select, spec, subject, name)) for name in subject.names
    ]


def _select(spec: Sce, subject: Subject, name: str) -> Rounds:
    cut: Cut | None = None
    if spec.select < 1:
        cut = yield from largest(
            (name,),
            subject.infos[name].count,
            spec.select,
            lambda run: _variance(subject.merge_run(run)),
        )

    def squares(run: Run) -> Array:
        deltas = _selected(cut, subject.merge_run(run))
        return np.stack([run.ops.dots(delta, delta) for delta in deltas])

    energy = summed((yield Each(squares)), len(subject.experts))
    count = len(energy)
    if energy.sum() == 0:
        return cut, [1.0 / count] * count
    return cut, [float(each) for each in energy / energy.sum()]


def _selected(cut: Cut | None, run: MergeRun) -> list[Array]:
    if cut is None:
        return run.deltas
    mask = cut.keep(run.run, _variance(run))
    return [run.ops.where_nonzero(mask, delta) for delta in run.deltas]


def _variance(run: MergeRun) -> Array:
    """Variance of the deltas over the experts (population), element by element."""
    ops, deltas = run.ops, run.deltas
    ones = [1.0] * len(deltas)
    mean = ops.divided(ops.weighted_sum(deltas, ones), len(deltas))
    apart = [ops.subtract(delta, mean) for delta in deltas]
    squares = ops.weighted_sum([ops.product(each, each) for each in apart], ones)
    return ops.divided(squares, len(deltas))


def _key(spec: Sce) -> tuple[str, float]:
    return "selection", spec.select
