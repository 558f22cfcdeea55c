"""Differences between two sides of a study, such as two recipes, as weights of their scores.

A side is a table of cells: one row per scored model, with the set of experts, task, head and seeds
that it stands for. Sets count equally; within a set its tasks, within a task its heads, then
training seeds and masks. Both sides are restricted to what they have in common: sets, tasks, heads
and training seeds. On one set, seeds are left out in turn; over several sets, experts.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mergegrid.study.scoring.levels import Contrast, Floats

CELL = ["experts", "task", "head", "training_seed"]
"""Columns that both sides must have in common."""
COLUMNS = [*CELL, "mask_seed", "model"]
"""Columns of a side: `experts` is a set joined by `+`, `model` the number of the model's score."""
_Bools = NDArray[np.bool_]


class _Side:
    """Cells of one side, and their weights when some of them are left out."""

    def __init__(self, cells: pd.DataFrame, models: NDArray[np.intp]) -> None:
        self.cells = cells
        self._place = np.searchsorted(models, cells["model"])
        self._count = len(models)
        self._groups = [np.zeros(len(cells), dtype=np.intp)]
        for name in CELL:
            codes, values = pd.factorize(cells[name])
            nested = self._groups[-1] * len(values) + codes
            self._groups.append(np.unique(nested, return_inverse=True)[1])
        self._groups.append(np.arange(len(cells)))

    def weights(self, keep: _Bools) -> Floats:
        """Weights of the models, [models], with the kept cells alone."""
        weights = np.ones(int(keep.sum()))
        for parents, children in pairwise(self._groups):
            kept = parents[keep]
            _, first = np.unique(children[keep], return_index=True)
            weights /= np.bincount(kept[first], minlength=int(parents.max()) + 1)[kept]
        sums: Floats = np.bincount(self._place[keep], weights, minlength=self._count).astype(float)
        return sums


def contrast(side: pd.DataFrame, other: pd.DataFrame) -> Contrast | None:
    """Return the difference `side` minus `other`, or None if they have nothing in common.

    Args:
        side: cells with the columns of `COLUMNS`.
        other: cells of the other side.
    """
    keys = [
        list(zip(*(part[name].tolist() for name in CELL), strict=True)) for part in (side, other)
    ]
    common = set(keys[0]) & set(keys[1])
    if not common:
        return None
    cells = [
        part.loc[[key in common for key in of_part], COLUMNS]
        for part, of_part in zip((side, other), keys, strict=True)
    ]
    models = np.unique(np.concatenate([part["model"] for part in cells]))
    sides = [_Side(part, models) for part in cells]

    def weights(keep: list[_Bools]) -> Floats:
        one, two = (part.weights(kept) for part, kept in zip(sides, keep, strict=True))
        return one - two

    left_out: dict[str, list[Floats]] = {}
    for level, keep in _deletions(cells):
        if all(kept.any() for kept in keep):
            left_out.setdefault(level, []).append(weights(keep))
    whole = weights([np.ones(len(part), dtype=np.bool_) for part in cells])
    return Contrast(
        models,
        whole,
        {level: np.stack(units) for level, units in left_out.items() if len(units) > 1},
    )


def independent_sets(side: pd.DataFrame) -> float:
    """Return the number of sets that are as good as independent: experts over experts per set."""
    clusters = _clusters(side)
    members = [set(text.split("+")) for text in side["experts"].unique()]
    counts = [sum(bool(cluster & experts) for cluster in clusters) for experts in members]
    everywhere = any(all(cluster & experts for experts in members) for cluster in clusters)
    return 1.0 if everywhere else len(clusters) / float(np.mean(counts))


def _deletions(cells: list[pd.DataFrame]) -> Iterator[tuple[str, list[_Bools]]]:
    """Yield each unit of each level, as the cells of both sides that are left without it."""
    sets = {text: set(text.split("+")) for text in cells[0]["experts"].unique()}
    if len(sets) > 1:
        for unit in _clusters(cells[0]):
            kept = {text for text, experts in sets.items() if not experts & unit}
            yield "sets", [part["experts"].isin(kept).to_numpy(np.bool_) for part in cells]
        return
    for level, column in (("masks", "mask_seed"), ("training", "training_seed")):
        seeds = [part[column].to_numpy(np.float64, na_value=np.nan) for part in cells]
        distinct = np.unique(np.concatenate(seeds))
        for seed in distinct[~np.isnan(distinct)]:
            # Models without a mask stay.
            yield level, [of_part != seed for of_part in seeds]


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


def side_mean(side: pd.DataFrame) -> Callable[[Floats], float]:
    """Return the function that gives the mean score of a side, given the scores of all models."""
    models = np.unique(side["model"])
    weights = _Side(side, models).weights(np.ones(len(side), dtype=np.bool_))
    return lambda values: float(weights @ values[models])
