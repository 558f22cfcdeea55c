"""Differences between two sides of a study, such as two recipes, as weights of their scores.

A side is a table of cells: one row per scored model, with the set of experts, task, head and seeds
that it stands for. Sets count equally; within a set its tasks, within a task its heads, then
training seeds and masks. Both sides are restricted to what they have in common: sets, tasks, heads
and training seeds. On one set, seeds are left out in turn; over several sets, experts. Weights are
computed once for each side, however many others it is compared with.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mergegrid.study.scoring.levels import Contrast, Floats

CELL = ["experts", "task", "head", "training_seed"]
"""Columns that both sides must have in common."""
COLUMNS = [*CELL, "mask_seed", "model"]
"""Columns of a side: `experts` is a set joined by `+`, `model` the number of the model's score."""
_Bools = NDArray[np.bool_]


class Weights:
    """Cells of one side, and the weights of their models when some of them are left out."""

    def __init__(self, cells: pd.DataFrame) -> None:
        """Take the cells, with the columns of `COLUMNS`."""
        self.cells = cells
        self.keys = list(zip(*(cells[name].tolist() for name in CELL), strict=True))
        self.distinct = frozenset(self.keys)
        self.models, self._place = np.unique(cells["model"], return_inverse=True)
        self._groups = [np.zeros(len(cells), dtype=np.intp)]
        for name in CELL:
            codes, values = pd.factorize(cells[name])
            nested = self._groups[-1] * len(values) + codes
            self._groups.append(np.unique(nested, return_inverse=True)[1])
        self._groups.append(np.arange(len(cells)))
        self.clusters = _clusters(cells)
        self._experts = cells["experts"].to_numpy()
        self.sets = {text: set(text.split("+")) for text in cells["experts"].unique()}
        self._seeds = {
            level: cells[column].to_numpy(np.float64, na_value=np.nan)
            for level, column in (("masks", "mask_seed"), ("training", "training_seed"))
        }
        self.seeds = {
            level: {float(seed) for seed in seeds if not np.isnan(seed)}
            for level, seeds in self._seeds.items()
        }
        self.whole = self._weights(np.ones(len(cells), dtype=np.bool_))
        """Weights of the models, [models], with all cells."""
        self._without = cache(self._left)

    def _weights(self, keep: _Bools) -> Floats:
        """Weights of the models, [models], with the kept cells alone."""
        weights = np.ones(int(keep.sum()))
        for parents, children in pairwise(self._groups):
            kept = parents[keep]
            _, first = np.unique(children[keep], return_index=True)
            weights /= np.bincount(kept[first], minlength=int(parents.max()) + 1)[kept]
        sums: Floats = np.bincount(self._place[keep], weights, minlength=len(self.models)).astype(
            float
        )
        return sums

    def without(self, level: str, unit: float) -> Floats | None:
        """Weights without a seed, or without a cluster of experts; None if no cell is left."""
        left: Floats | None = self._without(level, unit)
        return left

    def _left(self, level: str, unit: float) -> Floats | None:
        if level == "sets":
            cluster = self.clusters[int(unit)]
            kept = [text for text, experts in self.sets.items() if not experts & cluster]
            keep = np.isin(self._experts, kept)
        else:
            # Models without a mask stay.
            keep = self._seeds[level] != unit
        return self._weights(keep) if keep.any() else None

    def restricted(self, keys: frozenset[tuple[Any, ...]]) -> "Weights":
        """The side with some of its cells alone."""
        if self.distinct <= keys:
            return self
        return Weights(self.cells[[key in keys for key in self.keys]])


def contrast(one: Weights, other: Weights) -> Contrast | None:
    """Return the difference `one` minus `other`, or None if they have nothing in common."""
    common = one.distinct & other.distinct
    if not common:
        return None
    sides = one.restricted(common), other.restricted(common)
    models = np.union1d(*(side.models for side in sides))
    places = [np.searchsorted(models, side.models) for side in sides]

    def difference(parts: Iterable[Floats]) -> Floats:
        weights = np.zeros(len(models))
        for sign, place, part in zip((1, -1), places, parts, strict=True):
            weights[place] += sign * part
        return weights

    left_out: dict[str, list[Floats]] = {}
    for level, unit in _units(*sides):
        parts = [side.without(level, unit) for side in sides]
        kept = [part for part in parts if part is not None]
        if len(kept) == len(parts):
            left_out.setdefault(level, []).append(difference(kept))
    return Contrast(
        models,
        difference(side.whole for side in sides),
        {level: np.stack(units) for level, units in left_out.items() if len(units) > 1},
    )


def independent_sets(side: Weights) -> float:
    """Return the number of sets that are as good as independent: experts over experts per set."""
    counts = [
        sum(bool(cluster & experts) for cluster in side.clusters) for experts in side.sets.values()
    ]
    everywhere = any(
        all(cluster & experts for experts in side.sets.values()) for cluster in side.clusters
    )
    return 1.0 if everywhere else len(side.clusters) / float(np.mean(counts))


def _units(one: Weights, other: Weights) -> Iterator[tuple[str, float]]:
    """Yield each level with its units: seeds on one set, clusters of experts over several."""
    if len(one.sets) > 1:
        yield from (("sets", unit) for unit in range(len(one.clusters)))
        return
    for level in one.seeds:
        yield from ((level, seed) for seed in sorted(one.seeds[level] | other.seeds[level]))


def _clusters(cells: pd.DataFrame) -> list[set[str]]:
    """Group the experts of all sets into units that are drawn independently.

    Experts that share a task, and so its examples, count as one; so do those that are always
    together, as in sets without a common expert.
    """
    members = {text: set(text.split("+")) for text in cells["experts"].unique()}
    names = sorted(set().union(*members.values()))
    groups = [set(heads) for _, heads in cells.groupby("task")["head"]]
    together: dict[frozenset[str], set[str]] = {}
    for name in names:
        sets = frozenset(text for text, experts in members.items() if name in experts)
        together.setdefault(sets, set()).add(name)
    clusters = [{name} for name in names]
    for group in [*groups, *together.values()]:
        joined = set().union(*(cluster for cluster in clusters if cluster & group))
        clusters = [*(cluster for cluster in clusters if not cluster & group), joined]
    return sorted(clusters, key=min)
