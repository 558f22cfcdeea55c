"""Findings of a study: which recipe is best, what a sparsifier changes, and how sure that is.

All differences are paired: both sides have the same experts, tasks, training seeds and test
examples. Their intervals and t tests are those of `levels`: over test examples, mask seeds and
training seeds, for the experts at hand; means over several sets of experts have another interval,
for other experts like these. Kinds of findings:

- `best`: the best recipe, a method with a sparsifier, of a set of experts and over all sets. It is
  told apart only if it is better than every other recipe, so `p` is the largest of its p-values; as
  a claim about one pair it needs no correction for the number of recipes (Hung and Fithian 2019).
  Otherwise, `tied` leaves out those that it can be told apart from among all pairs of recipes.
- `experts`: the best recipe against the single experts, the best of which is meant where each was
  scored on all tasks of the set. The recipe was the best of several, so the number of recipes, and
  of experts, counts as a number of comparisons.
- `sparsifier`: a method with a sparsifier against the same method without, over all sets.
- `drop_rate`: sparsified experts against the unchanged ones, over all experts.

Intervals and p-values are corrected for the number of comparisons of a kind and family, by
Bonferroni: all intervals of a kind hold with a probability of 95 %, and the interval excludes 0
where the corrected p-value of its comparison is below 0.05.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.study.scoring.comparisons import Answers, tested_scores
from mergegrid.study.scoring.design import Design, Pair
from mergegrid.study.scoring.differences import LEVEL, Difference, apart, differences
from mergegrid.study.scoring.levels import SEEDS, Estimate, Floats, TaskOutcomes
from mergegrid.study.scoring.outcomes import task_outcomes

STAGE_VERSIONS = {"findings": 2}

POWER = 0.8
LEAST = 0.01
"""Smallest difference for which a number of questions is given: one point."""
LEVELS = ("examples", *SEEDS, "sets")

#: Columns of `results/findings.parquet`: type and description.
COLUMNS = {
    "kind": ("string", "`best`, `experts`, `sparsifier` or `drop_rate`"),
    "family": ("string", "base and experts, as named in the configuration"),
    "experts": ("string", "merged experts, joined by `+`; empty for all sets or all experts"),
    "method": ("string", "merging method; empty for an expert alone"),
    "sparsifier": ("string", "kind of the sparsifier"),
    "rate": ("string", "drop rate; several if they differ between training seeds, sets or tasks"),
    "settings": ("string", "other parameters of the sparsifier at a drop rate, as JSON"),
    "against": ("string", "the other side: a recipe, `single experts`, an expert or `none`"),
    "tied": ("string", "all recipes that the best one cannot be told apart from"),
    "sets": ("int64", "number of sets of experts, or of experts alone"),
    "tasks": ("int64", "number of tasks"),
    "n": ("int64", "number of test examples of all tasks"),
    "score": ("float64", "mean score"),
    "over_base": ("float64", "share of the sets on which the merge is better than the base"),
    "over_experts": ("float64", "share of the sets on which it is better than the single experts"),
    "retained": ("float64", "share of the gain from base to single experts that it keeps"),
    "difference": ("float64", "score minus the score of the other side"),
    "low": ("float64", "lower end of the interval"),
    "high": ("float64", "upper end of the interval"),
    "p": ("float64", "two-sided p-value"),
    "p_corrected": ("float64", "p-value times the number of comparisons"),
    "comparisons": ("int64", "number of comparisons that interval and p-value are corrected for"),
    "df": ("float64", "degrees of freedom of the t distribution"),
    "se_examples": ("float64", "standard error due to test examples"),
    "se_masks": ("float64", "standard error due to mask seeds; missing for one seed"),
    "se_training": ("float64", "standard error due to training seeds; missing for one seed"),
    "se_sets": ("float64", "standard error for other experts; missing without several sets"),
    "low_others": ("float64", "lower end of the interval for other experts like these"),
    "high_others": ("float64", "upper end of the interval for other experts"),
    "needed": (
        "float64",
        "test examples that would tell the two sides apart; infinite if examples alone would not, "
        "missing if they are told apart",
    ),
    "selection": (
        "string",
        "split on which settings were selected; `none` if there was nothing to select",
    ),
}


def findings(scores: pd.DataFrame, answers: Answers, labels: Mapping[str, Floats]) -> pd.DataFrame:
    """Make all findings of a study.

    Args:
        scores: scores of all recipes.
        answers: answers of all models, from `read_answers`.
        labels: labels of the test examples by task.

    Raises:
        DataError: a score has no answers, or not as many as there are examples.
    """
    tested = tested_scores(scores)
    values = tested["value"].to_numpy(np.float64)
    selected = _selections(scores)
    rows = []
    for family, of_family in tested.groupby("family", sort=False):
        comparisons = FamilyComparisons(of_family)
        tasks = task_outcomes(of_family, answers, labels)
        split = selected.get(str(family), "none")
        for row in comparisons.findings(values, tasks):
            rows.append({**row, "selection": "none" if row["kind"] == "drop_rate" else split})
    types = {name: kind for name, (kind, _) in COLUMNS.items()}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


@dataclass(frozen=True)
class _Planned:
    """One finding before its numbers are known."""

    keys: dict[str, Any]
    """Columns that identify the row."""
    pairs: Mapping[str, Pair]
    """Differences to the other sides, by their names; the first is reported."""
    comparisons: int


class FamilyComparisons:
    """All findings of one family."""

    def __init__(self, tested: pd.DataFrame) -> None:
        """Take the scores of one family, from `tested_scores`."""
        self._design = Design(tested)

    def findings(self, values: Floats, tasks: Iterable[TaskOutcomes]) -> Iterator[dict[str, Any]]:
        """Yield the rows of all findings.

        Args:
            values: score of every model, [all models].
            tasks: the answers of the models, task by task.
        """
        planned = [*self._of_merges(values), *self._of_sparsifiers(values), *self._of_rates(values)]
        pairs = [(self._design, pair) for item in planned for pair in item.pairs.values()]
        estimated = iter(differences(pairs, values, tasks))
        for item in planned:
            yield self._row(item, list(islice(estimated, len(item.pairs))))

    def _of_merges(self, values: Floats) -> Iterator[_Planned]:
        design = self._design
        sets = list(design.places)
        for experts in ["", *sets] if len(sets) > 1 else sets:
            recipes = [side for side in design.recipes if design.covers(side, experts)]
            means = {side: design.mean(side, experts, values) for side in recipes}
            if not means:
                continue
            best, *rivals = sorted(means, key=lambda side: -means[side])
            count = len(sets) if experts else 1
            keys = design.keys(best, experts, means[best])
            keys |= design.measures(best, experts, values)
            others = {recipe_name(*side[1:]): side for side in rivals}
            if pairs := design.pairs(best, others, experts):
                yield _Planned({"kind": "best", **keys}, pairs, count)
            singles = design.singles_of(experts)
            means = {side: design.mean(side, experts, values) for side in singles}
            single = max(means, key=lambda side: means[side], default=None)
            if single and (pairs := design.pairs(best, {single[1]: single}, experts)):
                comparisons = count * len(recipes) * len(singles)
                yield _Planned({"kind": "experts", **keys}, pairs, comparisons)

    def _of_sparsifiers(self, values: Floats) -> Iterator[_Planned]:
        changes = []
        sets = list(self._design.places)
        experts = sets[0] if len(sets) == 1 else ""
        for side in self._design.recipes:
            without = ("recipe", side[1], "none")
            if side == without or without not in self._design.cells:
                continue
            if pairs := self._design.pairs(side, {"none": without}, experts):
                mean = self._design.mean(side, experts, values)
                keys = self._design.keys(side, experts, mean)
                changes.append((keys | self._design.measures(side, experts, values), pairs))
        for keys, pairs in changes:
            yield _Planned({"kind": "sparsifier", **keys}, pairs, len(changes))

    def _of_rates(self, values: Floats) -> Iterator[_Planned]:
        changes = []
        for side in self._design.cells:
            if side[0] == "point" and (pairs := self._design.pairs(side, {"none": ("whole",)}, "")):
                keys = self._design.keys(side, "", self._design.mean(side, "", values))
                changes.append(({**keys, "method": "", "settings": side[2]}, pairs))
        for keys, pairs in changes:
            yield _Planned({"kind": "drop_rate", **keys}, pairs, len(changes))

    @staticmethod
    def _row(item: _Planned, estimated: Sequence[Difference]) -> dict[str, Any]:
        names = list(item.pairs)
        estimates = [one.here for one in estimated]
        first, others = estimates[0], estimated[0].others
        p = max(one.p for one in estimates)
        p_corrected = min(1.0, p * item.comparisons)
        level = LEVEL / item.comparisons
        low, high = first.interval(1 - level)
        low_others, high_others = others.interval(1 - level) if others else (np.nan, np.nan)
        tied = [
            name
            for name, is_apart in zip(names, apart(estimates, item.comparisons), strict=True)
            if not is_apart
        ]
        errors = {f"se_{name}": part.variance**0.5 for name, part in first.parts.items()}
        if others:
            errors["se_sets"] = others.variance**0.5
        return {
            **item.keys,
            "against": names[0],
            "tied": "; ".join(tied) if item.keys["kind"] == "best" else "",
            "difference": first.difference,
            "low": low,
            "high": high,
            "p": p,
            "p_corrected": p_corrected,
            "comparisons": item.comparisons,
            "df": first.df,
            **{f"se_{name}": errors.get(f"se_{name}", np.nan) for name in LEVELS},
            "low_others": low_others,
            "high_others": high_others,
            "needed": np.nan if p_corrected < LEVEL else needed(first, item.keys["n"], level),
        }


def recipe_name(method: str, sparsifier: str) -> str:
    """Return the name of a recipe in `against` and `tied`."""
    return method if sparsifier == "none" else f"{method} with {sparsifier}"


def needed(measured: Estimate, examples: int, level: float) -> float:
    """Return the number of test examples that would tell two sides apart with a power of 80 %.

    The difference is taken to be the measured one, or one point if that is less. Infinite if seeds
    and sets alone make it too uncertain.
    """
    from scipy.special import ndtri

    difference = max(abs(measured.difference), LEAST)
    target = (difference / (ndtri(1 - level / 2) + ndtri(POWER))) ** 2
    of_examples = measured.parts["examples"].variance
    left = target - (measured.variance - of_examples)
    return float(np.ceil(examples * of_examples / left)) if left > 0 else float("inf")


def _selections(scores: pd.DataFrame) -> dict[str, str]:
    """Split on which each family's settings were selected; families that selected nothing lack."""
    merges = scores[scores["study"] == "merges"]
    others = merges[~merges["selected"]]
    splits = others.groupby("family")["selection"].first()
    return {str(family): str(split) for family, split in splits.items()}
