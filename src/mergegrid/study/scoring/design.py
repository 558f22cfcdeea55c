"""The sides that a family of models has to compare: recipes, single experts, drop rates.

All of it depends on what was scored, not on the scores: sides, their cells and contrasts are made
once, however many numbers they are used with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.recipes.recipe import base_only
from mergegrid.study.scoring.contrasts import CELL, Weights, contrast, independent_sets
from mergegrid.study.scoring.levels import Contrast, Floats

SINGLE = "single experts"
LEAST_GAIN = 0.02
"""A share of a smaller, or negative, gain is meaningless."""
Side = tuple[str, ...]
"""One side of a comparison: `recipe`, method, sparsifier; `single` and a name; `point`, sparsifier,
settings and rate; or `whole`, the unchanged experts."""


@dataclass(frozen=True)
class Pair:
    """Two sides on one set of experts, or on all of them (`experts` is empty)."""

    one: Side
    other: Side
    experts: str


class Design:
    """Sides of one family with their cells, by set of experts."""

    def __init__(self, tested: pd.DataFrame) -> None:
        """Take the scores of one family, from `tested_scores`."""
        several = tested["engine"].nunique() > 1
        task = tested["task"] + (" [" + tested["engine"] + "]" if several else "")
        tested = tested.assign(task=task)
        self._family = str(tested["family"].iloc[0])
        self._sizes = tested.groupby("task")["n"].first()
        merges = tested[tested["study"] == "merges"]
        sweep = tested[tested["study"] == "sweep"]
        self.places = {
            str(experts): cells[CELL].drop_duplicates()
            for experts, cells in merges.groupby("experts", sort=False)
        }
        self._alone = sweep[sweep["sparsifier"] == "none"]
        base = base_only()
        is_base = (sweep["sparsifier"] == base.kind) & (sweep["rate"] == base.rate)
        self._base = sweep[is_base]
        #: Cells of each side by set of experts.
        self.cells: dict[Side, dict[str, pd.DataFrame]] = {}
        keys = ["method", "sparsifier"]
        for recipe, cells in merges.groupby(keys, sort=False):
            self.cells["recipe", *map(str, recipe)] = _by_set(cells)
        dropped = sweep[(sweep["sparsifier"] != "none") & ~is_base]
        for point, cells in dropped.groupby(["sparsifier", "settings", "rate"], sort=False):
            self.cells["point", *map(str, point)] = _by_set(cells)
        self.cells["whole",] = _by_set(self._alone)
        self._singles = {experts: self._single_sides(experts) for experts in self.places}
        self.recipes = [side for side in self.cells if side[0] == "recipe"]
        # These depend on what was scored, not on the scores.
        self._weighted = cache(lambda side, experts: Weights(self._cells_of(side, experts)))
        self._contrast = cache(self._make_contrast)
        self._independent = cache(self._count_independent)

    def _single_sides(self, experts: str) -> list[Side]:
        """Add the cells of single experts in the place of the merges of a set.

        If every expert of the set was scored on all of its tasks, each is one side. Otherwise the
        side is the expert of each task. Without scores of single experts there is none.
        """
        places = self.places[experts]
        alone = self._alone[["experts", "task", "training_seed", "mask_seed", "model"]]
        alone = alone.rename(columns={"experts": "expert"})
        singles = {
            f"expert {name}": places.merge(
                alone[alone["expert"] == name], on=["task", "training_seed"]
            )
            for name in experts.split("+")
        }
        key = ["head", "task", "training_seed"]
        singles[SINGLE] = places.merge(alone.rename(columns={"expert": "head"}), on=key)
        base = places.merge(self._base[[*key, "mask_seed", "model"]], on=key)
        if len(base) == len(places):
            self.cells.setdefault(("base",), {})[experts] = base
        complete = {name: cells for name, cells in singles.items() if len(cells) == len(places)}
        for name, cells in complete.items():
            self.cells.setdefault(("single", name), {})[experts] = cells
        if len(complete) == len(singles):
            del complete[SINGLE]
        else:
            complete = {name: cells for name, cells in complete.items() if name == SINGLE}
        return [("single", name) for name in complete]

    def singles_of(self, experts: str) -> list[Side]:
        """Sides of the single experts on a set, or on all sets."""
        if experts:
            return self._singles[experts]
        side = ("single", SINGLE)
        return [side] if self.covers(side, "") else []

    def covers(self, side: Side, experts: str) -> bool:
        """Whether a side has scores on a set, or on all sets."""
        sets = self.cells.get(side, {})
        return experts in sets if experts else len(sets) == len(self.places)

    def pairs(self, one: Side, others: Mapping[str, Side], experts: str) -> dict[str, Pair]:
        """Pairs of sides that have something in common, by the names of the other sides."""
        pairs = {name: Pair(one, other, experts) for name, other in others.items()}
        return {name: pair for name, pair in pairs.items() if self.contrast_of(pair) is not None}

    def on_sets(self, pair: Pair) -> list[Pair]:
        """The same sides on each set that both have."""
        both = [name for name in self.cells[pair.one] if name in self.cells[pair.other]]
        pairs = [Pair(pair.one, pair.other, experts) for experts in both]
        return [part for part in pairs if self.contrast_of(part) is not None]

    def contrast_of(self, pair: Pair) -> Contrast | None:
        """The difference between two sides, or None if they have nothing in common."""
        made: Contrast | None = self._contrast(pair)
        return made

    def independent(self, pair: Pair) -> float:
        """Number of independent sets that both sides have."""
        return float(self._independent(pair.one, pair.other))

    def mean(self, side: Side, experts: str, values: Floats) -> float:
        """Mean score of a side on a set, or over all sets."""
        weighted = self._weighted(side, experts)
        return float(weighted.whole @ values[weighted.models])

    def _cells_of(self, side: Side, experts: str) -> pd.DataFrame:
        sets = self.cells[side]
        return sets[experts] if experts else pd.concat(list(sets.values()))

    def _make_contrast(self, pair: Pair) -> Contrast | None:
        sides = (self._weighted(side, pair.experts) for side in (pair.one, pair.other))
        return contrast(*sides)

    def _count_independent(self, one: Side, other: Side) -> float:
        sets = frozenset(self._weighted(other, "").sets)
        weighted = self._weighted(one, "")
        return independent_sets(
            weighted.restricted(frozenset(key for key in weighted.keys if key[0] in sets))
        )

    def measures(self, side: Side, experts: str, values: Floats) -> dict[str, float]:
        """Columns of findings that put a merge beside base and single experts.

        They are missing where base or single experts were not scored on one of the tasks.
        """
        sets = [experts] if experts else list(self.cells[side])
        means = {
            reference: np.array([self.mean(reference, one, values) for one in sets])
            if all(self.covers(reference, one) for one in sets)
            else np.full(len(sets), np.nan)
            for reference in (side, ("base",), ("single", SINGLE))
        }
        score, base, single = means.values()
        gain = float((single - base).mean())
        return {
            "over_base": float(np.where(np.isnan(base), np.nan, score > base).mean()),
            "over_experts": float(np.where(np.isnan(single), np.nan, score > single).mean()),
            "retained": float((score - base).mean()) / gain if gain > LEAST_GAIN else float("nan"),
        }

    def keys(self, side: Side, experts: str, score: float) -> dict[str, Any]:
        """Columns of findings that identify a side."""
        cells = self._cells_of(side, experts)
        tasks = cells["task"].unique()
        kind = cells["sparsifier"].iloc[0]
        rates = sorted(cells["rate"].unique()) if kind != "none" else []
        return {
            "family": self._family,
            "experts": experts,
            "method": cells["method"].iloc[0],
            "sparsifier": kind,
            "rate": ", ".join(f"{rate:g}" for rate in rates),
            "settings": "",
            "sets": cells["experts"].nunique(),
            "tasks": len(tasks),
            "n": int(self._sizes[tasks].sum()),
            "score": score,
        }


def _by_set(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(experts): part for experts, part in cells.groupby("experts", sort=False)}
