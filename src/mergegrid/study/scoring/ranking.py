"""Ranking of merges: which method, with which sparsifier, is best over sets of experts?

An entrant is a method with a sparsifier, at the settings that were selected for it. Its score on a
set of experts is the mean over the tasks of the set (with the aim `each`, each task has settings of
its own), and its rank there is its place among the entrants, 1 for the best; equal ones share their
mean place. Score and rank are then averaged over sets: over those of one size, and over all sets.
Entrants that miss a set, such as methods for two experts, are left out where they miss one.

Intervals hold the middle 95 % of resamples, which draw four things with replacement, the same for
all entrants: test examples of each task, sets of experts within their size, training seeds, and
mask seeds. Where a study has one of a kind, that kind is not resampled, and the interval says
nothing about it. With two or three of a kind, or sets that share experts, intervals are narrow.

An entrant is told apart from the best if its gap to it is larger than chance explains for any of
the entrants at once: the largest standardized deviation of all gaps, over resamples, is the
critical value (Westfall and Young 1993, single-step maxT).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mergegrid.study.scoring.comparisons import Answers, answer_of
from mergegrid.study.scoring.resampling import Floats, generator, resampled

STAGE_VERSIONS = {"ranking": 1}

_TYPES = {
    **dict.fromkeys(("family", "size", "method", "sparsifier", "selection"), "string"),
    "sets": "int64",
    **dict.fromkeys(("candidates", "score", "percent", "percent_low", "percent_high"), "float64"),
    **dict.fromkeys(("rank", "rank_low", "rank_high", "behind"), "float64"),
    "significant": "bool",
}
_RESAMPLES = 2_000
_LEVEL = 0.95
_ENTRANT = ["method", "sparsifier"]


def rank(
    scores: pd.DataFrame,
    answers: Answers,
    labels: Mapping[str, Floats],
    resamples: int = _RESAMPLES,
) -> pd.DataFrame:
    """Rank the selected merges of every family.

    Args:
        scores: scores of all recipes.
        answers: answers of all models, from `read_answers`.
        labels: labels of the test examples by task.
        resamples: number of resamples.

    Raises:
        DataError: a score has no answers, or not as many as there are examples.
    """
    rows = [
        row
        for family, of_family in scores[scores["primary"]].groupby("family", sort=False)
        for row in _family(str(family), of_family, answers, labels, resamples)
    ]
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def _family(
    family: str,
    scores: pd.DataFrame,
    answers: Answers,
    labels: Mapping[str, Floats],
    resamples: int,
) -> Iterator[dict[str, Any]]:
    merged = scores[(scores["study"] == "merges") & scores["value"].notna()]
    counts = _candidates(merged)
    merged = merged[(merged["split"] == "test") & merged["selected"]]
    if merged.empty:
        return
    values = _values(family, _with_experts(merged, scores), answers, labels, resamples)
    selection = str(merged["selection"].iloc[0])
    sizes = values["experts"].str.count(r"\+") + 1
    groups = {str(size): values[sizes == size] for size in sorted(sizes.unique())}
    if len(groups) > 1:
        groups["all"] = values
    for size, group in groups.items():
        of_sets = set(group["experts"])
        for row in _group(family, group, resamples):
            entrant = row["method"], row["sparsifier"]
            compared = [
                count for key, count in counts.items() if key[0] in of_sets and key[2:] == entrant
            ]
            candidates = float(np.mean(compared))
            yield {
                **{"family": family, "size": size, "selection": selection},
                **{"candidates": candidates, **row},
            }


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


def _with_experts(merged: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Append the unchanged experts of each set to its merges, as the method `expert`."""
    alone = scores[
        (scores["study"] == "sweep")
        & (scores["sparsifier"] == "none")
        & (scores["split"] == "test")
    ]
    alone = alone.drop_duplicates(["experts", "training_seed", "task"])
    heads = merged[["experts", "head", "task", "training_seed"]].drop_duplicates()
    alone_in_sets = heads.merge(
        alone.drop(columns=["head"]).rename(columns={"experts": "head"}),
        on=["head", "task", "training_seed"],
    )
    # Columns without any value, such as that of mask seeds, have no type of their own.
    alone_in_sets = alone_in_sets.assign(method="expert")[merged.columns].astype(merged.dtypes)
    return pd.concat([merged, alone_in_sets], ignore_index=True) if len(alone_in_sets) else merged


def _values(
    family: str,
    rows: pd.DataFrame,
    answers: Answers,
    labels: Mapping[str, Floats],
    resamples: int,
) -> pd.DataFrame:
    """Average runs: a row per set and entrant, [experts, method, sparsifier].

    `score` is the mean over tasks and runs; `drawn` the same on each resample, [resamples].
    """
    rows = rows.drop_duplicates(["recipe_digest", "head", "task", "experts", "method"])
    of_runs = _draw_seeds(family, rows, resamples)
    parts: dict[tuple[str, str, str], list[tuple[float, Floats]]] = {}
    for (task, engine), of_task in rows.groupby(["task", "engine"], sort=False):
        # One model may stand in several sets; it is resampled once.
        models = of_task.drop_duplicates(["recipe_digest", "head"]).reset_index(drop=True)
        drawn = _resample(models, answers, None if engine else labels[str(task)], resamples)
        keys = zip(models["recipe_digest"], models["head"], strict=True)
        number = {key: place for place, key in enumerate(keys)}
        for key, runs in of_task.groupby(["experts", *_ENTRANT, "head"], sort=False):
            experts, method, sparsifier, _ = map(str, key)
            places = [
                number[pair] for pair in zip(runs["recipe_digest"], runs["head"], strict=True)
            ]
            seeds = zip(runs["training_seed"], runs["mask_seed"], strict=True)
            weights = np.stack(
                [of_runs[seed, None if pd.isna(mask) else mask] for seed, mask in seeds]
            )  # [runs, resamples]
            # Runs of none of the drawn seeds: an entrant that lacks some seeds that others have.
            weights[:, weights.sum(axis=0) == 0] = 1
            of_head = (drawn[places] * weights).sum(axis=0) / weights.sum(axis=0)
            parts.setdefault((experts, method, sparsifier), []).append(
                (_mean_of_runs(runs), of_head)
            )
    return pd.DataFrame(
        [
            {
                **dict(zip(["experts", *_ENTRANT], key, strict=True)),
                "score": float(np.mean([value for value, _ in heads])),
                "drawn": np.mean([values for _, values in heads], axis=0),
            }
            for key, heads in parts.items()
        ]
    )


def _mean_of_runs(runs: pd.DataFrame) -> float:
    """Mean over training seeds of the mean over their masks."""
    return float(runs.groupby("training_seed")["value"].mean().mean())


def _resample(
    models: pd.DataFrame, answers: Answers, labels: Floats | None, resamples: int
) -> Floats:
    """Values of all models of a task on resamples of its examples, [models, resamples]."""
    first = models.iloc[0]
    count = int(first["n"]) if labels is None else len(labels)
    predictions = np.stack([answer_of(answers, row, count) for _, row in models.iterrows()])
    metric = None if labels is None else first["metric"]
    random = generator({"task": first["task"], "examples": count, "ranking": resamples})
    return resampled(metric, labels, predictions, resamples, random)


def _draw_seeds(
    family: str, rows: pd.DataFrame, resamples: int
) -> dict[tuple[int, int | None], Floats]:
    """Draw the weight of each training seed and mask seed on every resample, [resamples]."""
    random = generator({"ranking of": family, "resamples": resamples})
    training, masks = (
        sorted(int(seed) for seed in rows[name].dropna().unique())
        for name in ("training_seed", "mask_seed")
    )
    of_training = _draw(random, len(training), resamples)
    of_masks = _draw(random, len(masks), resamples)
    weights: dict[tuple[int, int | None], Floats] = {}
    for seed, times in zip(training, of_training, strict=True):
        weights[seed, None] = times
        for mask, mask_times in zip(masks, of_masks, strict=True):
            weights[seed, mask] = times * mask_times
    return weights


def _draw(random: np.random.Generator, count: int, resamples: int) -> Floats:
    """Draw `count` things with replacement: how often each was drawn, [count, resamples]."""
    if not count:
        return np.empty((0, resamples))
    return random.multinomial(count, [1 / count] * count, size=resamples).T.astype(np.float64)


def _group(family: str, values: pd.DataFrame, resamples: int) -> Iterator[dict[str, Any]]:
    """Rank the entrants that stand in every set, best first."""
    sets = list(dict.fromkeys(values["experts"]))
    of_expert = values[values["method"] == "expert"].set_index("experts")
    merged = values[values["method"] != "expert"]
    sizes = merged.groupby(_ENTRANT, sort=False).size()
    entrants = list(sizes[sizes == len(sets)].index)
    if len(entrants) < 2:
        return
    table = merged.set_index([*_ENTRANT, "experts"])
    point = np.array([[table.at[(*key, name), "score"] for name in sets] for key in entrants])
    drawn = np.array([[table.at[(*key, name), "drawn"] for name in sets] for key in entrants])
    weights = _draw_sets(family, sets, resamples)  # [sets, resamples]
    scores, ranks = point.mean(axis=1), _places(point).mean(axis=1)  # [entrants]
    drawn_scores = (drawn * weights).mean(axis=1)  # [entrants, resamples]
    drawn_ranks = (_places(drawn) * weights).mean(axis=1)
    best = int(np.argmax(scores))
    apart = _significant(scores[best] - scores, drawn_scores[best] - drawn_scores)
    of_experts, drawn_experts = _of_experts(of_expert, sets, weights)
    for place in np.lexsort((-scores, ranks)):
        percent = 100 * drawn_scores[place] / drawn_experts
        yield {
            **dict(zip(_ENTRANT, entrants[place], strict=True)),
            "sets": len(sets),
            "score": scores[place],
            "percent": 100 * scores[place] / of_experts,
            **_interval("percent", percent),
            "rank": ranks[place],
            **_interval("rank", drawn_ranks[place]),
            "behind": round(float(scores[best] - scores[place]), 12),
            "significant": bool(apart[place]),
        }


def _draw_sets(family: str, sets: list[str], resamples: int) -> Floats:
    """Draw sets within their size: how often each was drawn, [sets, resamples]."""
    random = generator({"sets": sets, "family": family, "resamples": resamples})
    sizes = np.array([name.count("+") for name in sets])
    weights = np.empty((len(sets), resamples))
    for size in np.unique(sizes):
        weights[sizes == size] = _draw(random, int((sizes == size).sum()), resamples)
    return weights


def _of_experts(of_expert: pd.DataFrame, sets: list[str], weights: Floats) -> tuple[float, Floats]:
    """Mean score of the unchanged experts over tasks and sets; NaN where a study has none."""
    if not set(sets) <= set(of_expert.index):
        return np.nan, np.full(weights.shape[1], np.nan)
    drawn = np.array([of_expert.at[name, "drawn"] for name in sets])
    point = np.array([of_expert.at[name, "score"] for name in sets])
    return float(point.mean()), (drawn * weights).mean(axis=0)


def _places(scores: Floats) -> Floats:
    """Places along the first axis, 1 for the largest; equal scores share their mean place."""
    from scipy.stats import rankdata

    places: Floats = rankdata(-scores.round(12), axis=0)
    return places


def _significant(gaps: Floats, drawn: Floats) -> NDArray[np.bool_]:
    """Gaps that are larger than chance explains for all of them at once.

    Args:
        gaps: gap of each entrant to the best, [entrants].
        drawn: the same on resamples, [entrants, resamples].
    """
    errors = drawn.std(axis=1)
    moving = errors > 0
    if not moving.any():
        return gaps > 0
    deviations = np.abs(drawn[moving] - gaps[moving, None]) / errors[moving, None]
    critical = np.quantile(deviations.max(axis=0), _LEVEL)
    apart: NDArray[np.bool_] = gaps > critical * errors
    return apart


def _interval(name: str, drawn: Floats) -> dict[str, float]:
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
