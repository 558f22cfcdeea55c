"""TIES: trim, elect a sign, average what agrees with it (arXiv 2306.01708, section 4)."""

from collections.abc import Iterable
from functools import partial

import numpy as np

from mergegrid.engine.chunks import Run
from mergegrid.engine.masks import surely_drop
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Each, Rounds, Survey
from mergegrid.engine.thresholds import Cut, kth_smallest, smallest
from mergegrid.methods.method import MergeRun, Subject
from mergegrid.recipes.methods import Ties


def ties(spec: Ties, run: MergeRun) -> Array:
    """base + coefficient * mean of the trimmed deltas that agree with the elected sign.

    Each expert loses exactly round(trim * n) deltas of smallest magnitude. The elected sign is
    that of the sum of the trimmed deltas; where the sum is zero, nothing is added. The mean counts
    experts whose trimmed delta is not zero and has that sign. The order is: sparsify, trim, elect,
    merge. When a sparsifier has already dropped more than `trim`, its zeros are what is trimmed,
    and the trim removes nothing further.
    """
    undecided = 0.0
    if spec.arithmetic == "reference":
        undecided = float(np.sign(run.answer(_key(spec, "majority"))))
    deltas = trimmed(spec, run)
    merged = run.ops.agreeing_mean(deltas, [1.0] * len(deltas), undecided)
    return run.ops.plus(run.base, merged, spec.coefficient)


def trimmed(spec: Ties, run: MergeRun) -> list[Array]:
    """Deltas of every expert without the smallest."""
    cuts: list[Cut] = [run.answer(_key(spec, f"cut of {expert}")) for expert in run.experts]
    return [cut.keep(run.run, delta) for cut, delta in zip(cuts, run.deltas, strict=True)]


def surveys(spec: Ties, subject: Subject) -> Iterable[Survey]:
    """A cut for each expert and group of tensors; what is left of it, then, for the reference."""
    names = subject.names
    groups = [names] if spec.scope == "global" else [(name,) for name in names]
    for group in groups:
        for expert in subject.experts:
            rounds = partial(_cut, spec, subject, expert, group)
            yield Survey(_key(spec, f"cut of {expert}"), group, rounds)
    if spec.arithmetic == "reference":

        def majority() -> Rounds:
            def net(run: Run) -> int:
                deltas = trimmed(spec, subject.merge_run(run))
                return run.ops.net_sign(run.ops.weighted_sum(deltas, [1.0] * len(deltas)))

            return sum((yield Each(net)))

        yield Survey(_key(spec, "majority"), names, majority, after=True)


def _cut(spec: Ties, subject: Subject, expert: str, group: tuple[str, ...]) -> Rounds:
    def delta(run: Run) -> Array:
        return subject.merge_run(run).experts[expert].delta

    count = subject.count(group)
    if spec.arithmetic == "reference":
        # The reference keeps what is as large as the int(trim * n)-th smallest, equals included.
        bits = yield from kth_smallest(count, spec.trim, delta)
        return Cut(bits or 0, group, (len(group), 0))
    dropped = [(subject.infos[name].count, subject.dropped(expert, name)) for name in group]
    if surely_drop(dropped, round(spec.trim * count)):
        # Only zeros are trimmed.
        return Cut(0, group, (0, 0))
    return (yield from smallest(group, count, spec.trim, delta))


def _key(spec: Ties, what: str) -> tuple[object, ...]:
    return spec.trim, spec.scope, spec.arithmetic, what
