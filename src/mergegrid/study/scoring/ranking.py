"""Ranking of merges: which method, with which sparsifier, is best over sets of experts?

An entrant is a method with a sparsifier, at the settings that were selected for it. Its score is
the mean over sets, over those of one size and over all; that on a set is the mean over the tasks of
the set (with the aim `each`, each task has settings of its own). Its rank is the place of its score
among the entrants, 1 for the best; equal ones share their mean place. Entrants that miss a set,
such as methods for two experts, are left out where they miss one.

Differences between entrants are those of the findings (`differences`): paired, with intervals over
test examples, mask seeds and training seeds for the experts at hand, and others for other experts
like these. All pairs of entrants are compared at once. An entrant surely ranks behind those that
score higher and can be told apart from it, and before those that score lower and can: the ranks
between are its interval (Mogstad, Romano, Shaikh and Wilhelm 2024). Nothing is resampled but test
examples, for metrics that are not means: ranks on resamples are biased towards the middle, and too
sure of two or three seeds.

The mean of an entrant's places on the single sets, `mean_rank`, is a description without interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.study.scoring.comparisons import Answers, tested_scores
from mergegrid.study.scoring.design import SINGLE, Design, Pair, Side
from mergegrid.study.scoring.differences import LEVEL, Difference, apart, differences
from mergegrid.study.scoring.levels import Estimate, Floats
from mergegrid.study.scoring.outcomes import task_outcomes

STAGE_VERSIONS = {"ranking": 2}

_TYPES = {
    **dict.fromkeys(("family", "size", "method", "sparsifier", "selection"), "string"),
    "sets": "int64",
    **dict.fromkeys(("candidates", "score", "percent"), "float64"),
    **dict.fromkeys(("rank", "rank_low", "rank_high", "mean_rank"), "float64"),
    **dict.fromkeys(("behind", "low", "high", "low_others", "high_others"), "float64"),
    "significant": "bool",
}
_ENTRANT = ["method", "sparsifier"]


def rank(scores: pd.DataFrame, answers: Answers, labels: Mapping[str, Floats]) -> pd.DataFrame:
    """Rank the selected merges of every family.

    Args:
        scores: scores of all recipes.
        answers: answers of all models, from `read_answers`.
        labels: labels of the test examples by task.

    Raises:
        DataError: a score has no answers, or not as many as there are examples.
    """
    tested = tested_scores(scores)
    values = tested["value"].to_numpy(np.float64)
    rows = []
    for family, of_family in tested.groupby("family", sort=False):
        merged = scores[(scores["family"] == family) & (scores["study"] == "merges")]
        selections = of_family.loc[of_family["study"] == "merges", "selection"]
        counts = _candidates(merged[merged["primary"] & merged["value"].notna()])
        rankings = {size: Ranking(part) for size, part in _by_size(of_family).items()}
        pairs = [pair for ranking in rankings.values() for pair in ranking.pairs(values)]
        gaps = iter(differences(pairs, values, task_outcomes(of_family, answers, labels)))
        for size, ranking in rankings.items():
            of_size = list(islice(gaps, len(ranking.pairs(values))))
            for row in ranking.rows(values, of_size):
                entrant, sets = (row["method"], row["sparsifier"]), ranking.sets
                compared = [n for key, n in counts.items() if key[0] in sets and key[2:] == entrant]
                rows.append(
                    {
                        **{"family": family, "size": size, **row},
                        **{"candidates": np.mean(compared), "sets": len(sets)},
                        "selection": selections.iloc[0],
                    }
                )
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def _by_size(tested: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split the scores of a family by the size of the merged sets; `all` has all, if several."""
    merges = tested["study"] == "merges"
    sizes = tested["experts"].str.count(r"\+") + 1
    distinct = sorted(sizes[merges].unique())
    parts = {str(size): tested[~merges | (sizes == size)] for size in distinct}
    return parts | {"all": tested} if len(parts) > 1 else parts


def _candidates(merged: pd.DataFrame) -> dict[tuple[str, int, str, str], int]:
    """Count the settings compared for each entrant, [experts, training_seed, method, sparsifier].

    Those of a sparsifier include the settings of its method, which are compared without one.
    """
    keys = ["experts", "training_seed", *_ENTRANT]
    compared = merged[merged["split"] == merged["selection"]]
    counts = compared.drop_duplicates([*keys, "rate", "settings"]).groupby(keys).size()
    totals: dict[tuple[str, int, str, str], int] = {}
    for key in merged.loc[merged["selected"], keys].drop_duplicates().itertuples(index=False):
        experts, seed, method, sparsifier = key
        # A single candidate is not compared, and has no score on the selection split.
        total = max(int(counts.get((experts, seed, method, "none"), 0)), 1)
        if sparsifier != "none":
            total += max(int(counts.get((experts, seed, method, sparsifier), 0)), 1)
        totals[experts, seed, method, sparsifier] = total
    return totals


class Ranking:
    """The ranking of the merges of one family over all of their sets of experts."""

    def __init__(self, tested: pd.DataFrame) -> None:
        """Take the scores of one family, from `tested_scores`."""
        self._design = design = Design(tested)
        entrants = [side for side in design.recipes if design.covers(side, "")]
        self._entrants = entrants if len(entrants) > 1 else []
        self.sets = list(design.places)

    def _ordered(self, values: Floats) -> list[Side]:
        """Sort the entrants by score, best first."""
        return sorted(self._entrants, key=lambda side: -self._design.mean(side, "", values))

    def pairs(self, values: Floats) -> list[tuple[Design, Pair]]:
        """All pairs of entrants, the better one first.

        Args:
            values: score of every model, [all models].
        """
        ordered = combinations(self._ordered(values), 2)
        return [(self._design, Pair(one, other, "")) for one, other in ordered]

    def rows(self, values: Floats, gaps: Sequence[Difference]) -> Iterator[dict[str, Any]]:
        """Yield the row of each entrant, best first, given the differences of all pairs."""
        design, entrants, count = self._design, self._ordered(values), len(self._entrants)
        if not entrants:
            return
        behind_best = [None, *gaps[: count - 1]]
        ahead = np.zeros((count, count), np.bool_)  # [entrants, entrants that rank behind surely]
        ahead[np.triu_indices(count, 1)] = [gap.here.differs(LEVEL, count) for gap in gaps]
        ahead[:1, 1:] = apart([gap.here for gap in gaps[: count - 1]])
        scores = np.array([design.mean(side, "", values) for side in entrants])
        on_sets = [[design.mean(side, name, values) for name in self.sets] for side in entrants]
        ranks, mean_ranks = _places(scores), _places(np.array(on_sets)).mean(axis=1)
        single = ("single", SINGLE)
        of_experts = design.mean(single, "", values) if design.covers(single, "") else np.nan
        for place, (side, gap) in enumerate(zip(entrants, behind_best, strict=True)):
            yield {
                **dict(zip(_ENTRANT, side[1:], strict=True)),
                "score": scores[place],
                "percent": 100 * scores[place] / of_experts,
                "rank": ranks[place],
                "rank_low": 1 + ahead[:, place].sum(),
                "rank_high": count - ahead[place].sum(),
                "mean_rank": mean_ranks[place],
                "behind": gap.here.difference if gap else 0.0,
                **_interval("low", "high", gap.here if gap else None, count),
                **_interval("low_others", "high_others", gap.others if gap else None, count),
                "significant": ahead[0, place],
            }


def _interval(low: str, high: str, gap: Estimate | None, sides: int) -> dict[str, float]:
    ends = gap.interval(1 - LEVEL, sides) if gap else (np.nan, np.nan)
    return dict(zip((low, high), ends, strict=True))


def _places(scores: Floats) -> Floats:
    """Places along the first axis, 1 for the largest; equal scores share their mean place."""
    from scipy.stats import rankdata

    places: Floats = rankdata(-scores.round(12), axis=0)
    return places
