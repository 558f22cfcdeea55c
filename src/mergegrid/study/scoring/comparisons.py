"""Paired comparisons: is the difference between two models larger than chance explains?

On the test split, sweeps compare every sparsifier at every rate with the unchanged expert, and
merges compare every selected sparsifier with a method to the same method without one. Both sides
have the same experts, task head and training seeds.

Test examples are resampled with replacement, the same ones for all models of a task. So are the
runs of the side with the sparsifier: training seeds, and for each drawn seed as many of its masks
as it has. With a single run, only examples are resampled. The interval holds the middle 95 % of the
resampled differences. `p` is twice the share of resamples on the rarer side of zero (including
zero), with one added to both counts (two-sided percentile bootstrap); `p_holm` corrects it for all
comparisons of a study and family (Holm 1979).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.errors import DataError
from mergegrid.methods import METHODS
from mergegrid.recipes.recipe import base_only
from mergegrid.sparsifiers import SPARSIFIERS
from mergegrid.study.scoring.resampling import Floats, generator, resampled

STAGE_VERSIONS = {"comparisons": 1}

#: Columns of `results/comparisons.parquet`: type and description.
COLUMNS = {
    "study": ("string", "`sweep` (one expert alone) or `merges`"),
    "family": ("string", "base and experts, as named in the configuration"),
    "experts": ("string", "experts of both sides, joined by `+`"),
    "head": ("string", "expert whose task head is scored, or whose ability a benchmark measures"),
    "task": ("string", "task or benchmark"),
    "metric": ("string", "metric of the task"),
    "engine": ("string", "engine that generated decoders' answers; empty for encoders"),
    "method": ("string", "kind of the merging method of both sides"),
    "sparsifier": ("string", "kind of the sparsifier"),
    "rate": ("string", "drop rate; several if training seeds selected different ones"),
    "settings": ("string", "all other parameters, as JSON; several as for the rate"),
    "against": ("string", "the other side: the unchanged `expert`, or the method with `none`"),
    "runs": ("int64", "number of compared recipes: training seeds times mask seeds"),
    "n": ("int64", "number of test examples"),
    "difference": ("float64", "score with the sparsifier minus score without"),
    "low": ("float64", "lower end of the 95 % interval"),
    "high": ("float64", "upper end of the 95 % interval"),
    "p": ("float64", "two-sided p-value of the bootstrap"),
    "p_holm": ("float64", "p-value corrected for all comparisons of the family and study"),
}
_RESAMPLES = 10_000
_RESAMPLES_PER_COMPARISON = 80
"""The smallest p-value is 2 / resamples: with so many, Holm's correction keeps it below 0.05."""
_SIDE = ["family", "experts", "head", "task", "metric", "engine", "method"]

Answers = Mapping[tuple[str, str], Floats]
"""By recipe digest and task head, the predicted class or number of each test example; by recipe
digest and benchmark, the value of the primary metric of each test question."""


@dataclass(frozen=True)
class _Comparison:
    """One row of the table to be."""

    keys: dict[str, Any]
    """Columns that identify the row."""
    runs: pd.DataFrame
    """A row per run: `training_seed`, and the numbers `model` and `model_other` of both sides."""


def compare(
    scores: pd.DataFrame,
    answers: Answers,
    labels: Mapping[str, Floats],
    resamples: int | None = None,
) -> pd.DataFrame:
    """Make all paired comparisons of a study.

    Args:
        scores: scores of all recipes.
        answers: answers of all models, from `read_answers`.
        labels: labels of the test examples by task.
        resamples: number of resamples; by default 10,000, or 80 per comparison if that is more.

    Raises:
        DataError: a score has no answers, or not as many as there are examples.
    """
    tested = tested_scores(scores)
    base = base_only()
    not_base = (tested["sparsifier"] != base.kind) | (tested["rate"] != base.rate)
    sweep = tested[(tested["study"] == "sweep") & not_base]
    merges = tested[tested["study"] == "merges"]
    comparisons = [
        *_comparisons(sweep, ["sparsifier", "rate", "settings"], "expert"),
        *_comparisons(merges, ["sparsifier"], "none"),
    ]
    if resamples is None:
        groups = [(item.keys["study"], item.keys["family"]) for item in comparisons]
        largest = max((groups.count(group) for group in set(groups)), default=0)
        resamples = max(_RESAMPLES, _RESAMPLES_PER_COMPARISON * largest)
    by_task: dict[tuple[str, str, str], list[_Comparison]] = {}
    for item in comparisons:
        key = (item.keys["family"], item.keys["task"], item.keys["engine"])
        by_task.setdefault(key, []).append(item)
    rows = [
        row
        for (_, task, _), group in by_task.items()
        for row in _bootstrap(tested, group, answers, labels.get(task), resamples)
    ]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_holm"])
    table["p_holm"] = table.groupby(["study", "family"])["p"].transform(
        lambda values: holm(np.asarray(values, dtype=np.float64))
    )
    types = {name: kind for name, (kind, _) in COLUMNS.items()}
    return _in_order(table, scores).astype(types)[list(types)]


def read_answers(predictions: Sequence[Path], records: Sequence[Path]) -> Answers:
    """Read the answers of every model on the test split.

    Args:
        predictions: files of encoders.
        records: files of decoders, with a row per answer.
    """
    answers: dict[tuple[str, str], Floats] = {}
    for path in predictions:
        frame = pd.read_parquet(path)
        columns = (frame[name] for name in ("recipe_digest", "head", "predictions"))
        for recipe, head, values in zip(*columns, strict=True):
            answers[recipe, head] = np.asarray(values, dtype=np.float64)
    question = ["recipe_digest", "benchmark", "id"]
    for path in records:
        frame = pd.read_parquet(path, columns=[*question, "split", "value"])
        frame = frame[frame["split"] == "test"].drop_duplicates(question).sort_values(question)
        for (recipe, benchmark), group in frame.groupby(question[:2], sort=False):
            answers[str(recipe), str(benchmark)] = group["value"].to_numpy(dtype=np.float64)
    return answers


def read_labels(examples: Sequence[Path]) -> dict[str, Floats]:
    """Read the labels of the test examples of tasks, by task: the name of the file."""
    labels = {}
    for path in examples:
        frame = pd.read_parquet(path, columns=["split", "label"])
        of_test = frame.loc[frame["split"] == "test", "label"]
        labels[path.name.removesuffix(".parquet")] = of_test.to_numpy(dtype=np.float64)
    return labels


def holm(p_values: Floats) -> Floats:
    """Correct p-values for multiple comparisons (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return corrected


def tested_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Select the scores to compare, [recipe_digest, head, task], numbered in column `model`."""
    rows = scores[(scores["split"] == "test") & scores["primary"] & scores["value"].notna()]
    rows = rows[(rows["study"] == "sweep") | ((rows["study"] == "merges") & rows["selected"])]
    rows = rows.drop_duplicates(["recipe_digest", "head", "task"])
    return rows.reset_index(drop=True).rename_axis("model").reset_index()


def _comparisons(rows: pd.DataFrame, kinds: list[str], against: str) -> Iterator[_Comparison]:
    """Pair the runs of each sparsifier with those without one and with the same training seed."""
    same = [*_SIDE, "training_seed"]
    others = rows.loc[rows["sparsifier"] == "none", [*same, "model"]].drop_duplicates(same)
    runs = rows[rows["sparsifier"] != "none"].merge(others, on=same, suffixes=("", "_other"))
    for _, group in runs.groupby([*_SIDE, *kinds], sort=False):
        first = group.iloc[0]
        keys = {
            **{name: first[name] for name in ("study", *_SIDE, "sparsifier")},
            "rate": ", ".join(f"{rate:g}" for rate in sorted(group["rate"].unique())),
            "settings": ", ".join(sorted(group["settings"].unique())),
            "against": against,
        }
        columns = ["model", "model_other", "training_seed"]
        yield _Comparison(keys, group[columns].reset_index(drop=True))


def _bootstrap(
    tested: pd.DataFrame,
    comparisons: list[_Comparison],
    answers: Answers,
    labels: Floats | None,
    resamples: int,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the comparisons of one task, all on the same resamples."""
    sides = ["model", "model_other"]
    models = np.unique(np.concatenate([item.runs[sides] for item in comparisons]))
    rows = tested.loc[models]
    task, metric = comparisons[0].keys["task"], comparisons[0].keys["metric"]
    if comparisons[0].keys["engine"]:
        # The metric of a benchmark is a mean over questions.
        metric = labels = None
    count = int(rows["n"].iloc[0]) if labels is None else len(labels)
    predictions = np.stack([answer_of(answers, row, count) for _, row in rows.iterrows()])
    random = generator({"task": task, "examples": count, "resamples": resamples})
    values = resampled(metric, labels, predictions, resamples, random)  # [models, resamples]
    scores = rows["value"].to_numpy()
    for item in comparisons:
        one, other = (np.searchsorted(models, item.runs[side]) for side in sides)
        masks = item.runs.groupby("training_seed")["model"].transform("size").to_numpy()
        weights = 1 / (masks * item.runs["training_seed"].nunique())
        difference = ((scores[one] - scores[other]) * weights).sum()
        drawn = _draw_runs(item, resamples)  # [runs, resamples]
        yield {
            **item.keys,
            "runs": len(item.runs),
            "n": count,
            # Sums of equal terms differ in their last digits.
            "difference": round(float(difference), 12),
            **_interval_and_p(((values[one] - values[other]) * drawn).sum(axis=0)),
        }


def answer_of(answers: Answers, row: "pd.Series[Any]", count: int) -> Floats:
    """The answers of the model and head of a row, one for each of the `count` test examples.

    Raises:
        DataError: there are none, or not as many.
    """
    values = answers.get((row["recipe_digest"], row["task"] if row["engine"] else row["head"]))
    if values is None or len(values) != count:
        raise DataError(
            f"{row['recipe']} has {0 if values is None else len(values)} stored answers to "
            f"{row['n']} examples of {row['task']}, which now has {count}; remove the files of its "
            "scores and rerun to rebuild them"
        )
    return values


def _draw_runs(comparison: _Comparison, resamples: int) -> Floats:
    """Draw the weight of each run in each resample, [runs, resamples]; weights sum to 1."""
    runs = comparison.runs
    weights = np.empty((len(runs), resamples))
    groups = [np.asarray(group.index) for _, group in runs.groupby("training_seed")]
    random = generator({**comparison.keys, "runs": [len(group) for group in groups]})
    seeds = random.multinomial(len(groups), [1 / len(groups)] * len(groups), size=resamples)
    for group, times in zip(groups, seeds.T, strict=True):
        masks = random.multinomial(times * len(group), [1 / len(group)] * len(group))
        weights[group] = masks.T / (len(group) * len(groups))
    return weights


def _interval_and_p(differences: Floats) -> dict[str, float]:
    differences = differences.round(12)
    low, high = np.quantile(differences, [0.025, 0.975])
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    p = min(1.0, 2 * (rarer + 1) / (len(differences) + 1))
    return {"low": float(low), "high": float(high), "p": float(p)}


def _in_order(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Sort kinds as registered, and families, experts, heads and tasks as in the scores."""
    orders = {
        "method": list(METHODS),
        "sparsifier": list(SPARSIFIERS),
        "study": ["sweep", "merges"],
    }

    def ranks(column: "pd.Series[Any]") -> "pd.Series[Any]":
        name = str(column.name)
        if name == "rate":
            return column.str.split(",").str[0].astype("float64")
        order = orders.get(name, list(dict.fromkeys([*scores[name], *column])))
        return column.map({value: rank for rank, value in enumerate(order)}).astype("int64")

    keys = ["study", "family", "experts", "head", "task", "method", "sparsifier", "rate"]
    return table.sort_values([*keys, "settings"], key=ranks, ignore_index=True)
