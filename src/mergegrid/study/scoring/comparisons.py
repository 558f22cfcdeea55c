"""Paired comparisons: is the difference between two models more than the luck of the examples?

Compared are, on the test split, in the sweep every sparsifier at every rate with the expert as it
is, and among chosen merges every sparsifier in front of a method with the same method without one.
Both sides have the same experts, task head and training seeds.

Resampled are, with replacement, the test examples, of which all models of a task see the same draw;
and the runs of the side with the sparsifier: training seeds, and for each drawn seed as many of its
masks as it has. A single run leaves only the examples to draw. The interval holds the middle 95 %
of the differences of the resamples. `p` is twice the share of resamples on the rarer side of zero,
zero itself included, with one more counted on either (two-sided percentile bootstrap); `p_holm`
holds for all comparisons of one study of one family together (Holm 1979).
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

#: Column, type, meaning: the whole of `results/comparisons.parquet`.
COLUMNS = {
    "study": ("string", "`sweep` (one expert alone) or `merges`"),
    "family": ("string", "base and experts, as named in the configuration"),
    "experts": ("string", "experts of both sides, joined by `+`"),
    "head": ("string", "expert whose task head is scored, or whose ability a benchmark measures"),
    "task": ("string", "task or benchmark"),
    "metric": ("string", "metric of the task"),
    "engine": ("string", "what wrote the answers of decoders; empty for encoders"),
    "method": ("string", "kind of the merging method of both sides"),
    "sparsifier": ("string", "kind of the sparsifier"),
    "rate": ("string", "its drop rate; several where training seeds chose differently"),
    "settings": ("string", "all other parameters, as JSON; several as for the rate"),
    "against": ("string", "the other side: the `expert` as it is, or the method with `none`"),
    "runs": ("int64", "recipes compared: training seeds times mask seeds"),
    "n": ("int64", "number of test examples"),
    "difference": ("float64", "how much better the side with the sparsifier is"),
    "low": ("float64", "lower end of the 95 % interval"),
    "high": ("float64", "upper end of the 95 % interval"),
    "p": ("float64", "two-sided p-value of the bootstrap"),
    "p_holm": ("float64", "the same, corrected for all comparisons of the family and study"),
}
_RESAMPLES = 10_000
#: A p-value has a floor of 2 / resamples: with so many to each comparison, Holm's correction of
#: the floor stays below 0.05.
_RESAMPLES_EACH = 80
_SIDE = ["family", "experts", "head", "task", "metric", "engine", "method"]
_MODEL = ["recipe_digest", "head", "task"]


Answers = Mapping[tuple[str, str], Floats]
"""Of a recipe, by its digest, and a task head: classes or numbers, one for each test example; and
of a recipe and a benchmark: values of the primary metric, one for each test question."""


@dataclass(frozen=True)
class _Pair:
    """One comparison: its place in the table, the runs of one side, and their others."""

    place: dict[str, Any]
    runs: pd.DataFrame
    """One row per run, with the position of its model and of that of the other side."""


def compare(
    scores: pd.DataFrame,
    answers: Answers,
    labels: Mapping[str, Floats],
    resamples: int | None = None,
) -> pd.DataFrame:
    """All paired comparisons of a study.

    Args:
        scores: of all recipes.
        answers: of all models, as `read_answers` gives them.
        labels: of the test examples, by task.
        resamples: how many to draw; when unset 10,000, or 80 for each comparison if that is more.

    Raises:
        DataError: a score has no answers, or not as many as there are examples.
    """
    tested = _tested(scores)
    pairs = [*_pairs_of_sweeps(tested), *_pairs_of_merges(tested)]
    if resamples is None:
        of_study = [(pair.place["study"], pair.place["family"]) for pair in pairs]
        most = max((of_study.count(each) for each in set(of_study)), default=0)
        resamples = max(_RESAMPLES, _RESAMPLES_EACH * most)
    by_task: dict[tuple[str, str, str], list[_Pair]] = {}
    for pair in pairs:
        key = (pair.place["family"], pair.place["task"], pair.place["engine"])
        by_task.setdefault(key, []).append(pair)
    rows = [
        row
        for (_, task, _), group in by_task.items()
        for row in _rows(tested, group, answers, labels.get(task), resamples)
    ]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_holm"])
    table["p_holm"] = table.groupby(["study", "family"])["p"].transform(
        lambda values: holm(np.asarray(values, dtype=np.float64))
    )
    types = {name: kind for name, (kind, _) in COLUMNS.items()}
    return _ordered(table, scores).astype(types)[list(types)]


def read_answers(predictions: Sequence[Path], records: Sequence[Path]) -> Answers:
    """What every model answered on the test split.

    Args:
        predictions: files of encoders.
        records: files of decoders, one row per answer.
    """
    found: dict[tuple[str, str], Floats] = {}
    for path in predictions:
        frame = pd.read_parquet(path)
        columns = (frame[name] for name in ("recipe_digest", "head", "predictions"))
        for recipe, head, values in zip(*columns, strict=True):
            found[recipe, head] = np.asarray(values, dtype=np.float64)
    question = ["recipe_digest", "benchmark", "id"]
    for path in records:
        frame = pd.read_parquet(path, columns=[*question, "split", "value"])
        frame = frame[frame["split"] == "test"].drop_duplicates(question).sort_values(question)
        for (recipe, benchmark), group in frame.groupby(question[:2], sort=False):
            found[str(recipe), str(benchmark)] = group["value"].to_numpy(dtype=np.float64)
    return found


def read_labels(examples: Sequence[Path]) -> dict[str, Floats]:
    """The labels of the test examples of tasks, each by the name of its file."""
    found = {}
    for path in examples:
        frame = pd.read_parquet(path, columns=["split", "label"])
        labels = frame.loc[frame["split"] == "test", "label"]
        found[path.name.removesuffix(".parquet")] = labels.to_numpy(dtype=np.float64)
    return found


def holm(values: Floats) -> Floats:
    """P-values corrected for being several (Holm 1979), in their order."""
    order = np.argsort(values, kind="stable")
    steps = np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * steps), 1.0)
    return corrected


def _tested(scores: pd.DataFrame) -> pd.DataFrame:
    """What may be compared, one row for each model and task, numbered."""
    rows = scores[(scores["split"] == "test") & scores["primary"] & scores["value"].notna()]
    rows = rows[(rows["study"] == "sweep") | ((rows["study"] == "merges") & rows["selected"])]
    return rows.drop_duplicates(_MODEL).reset_index(drop=True).rename_axis("model").reset_index()


def _pairs_of_sweeps(tested: pd.DataFrame) -> Iterator[_Pair]:
    rows = tested[tested["study"] == "sweep"]
    base = base_only()
    rows = rows[(rows["sparsifier"] != base.kind) | (rows["rate"] != base.rate)]
    yield from _pairs(rows, ["sparsifier", "rate", "settings"], "expert")


def _pairs_of_merges(tested: pd.DataFrame) -> Iterator[_Pair]:
    yield from _pairs(tested[tested["study"] == "merges"], ["sparsifier"], "none")


def _pairs(rows: pd.DataFrame, points: list[str], against: str) -> Iterator[_Pair]:
    """Every point beside what has no sparsifier, run by run of the same training seed."""
    same = [*_SIDE, "training_seed"]
    others = rows.loc[rows["sparsifier"] == "none", [*same, "model"]].drop_duplicates(same)
    runs = rows[rows["sparsifier"] != "none"].merge(others, on=same, suffixes=("", "_other"))
    for _, group in runs.groupby([*_SIDE, *points], sort=False):
        first = group.iloc[0]
        place = {
            **{name: first[name] for name in ("study", *_SIDE, "sparsifier")},
            "rate": ", ".join(f"{rate:g}" for rate in sorted(group["rate"].unique())),
            "settings": ", ".join(sorted(group["settings"].unique())),
            "against": against,
        }
        columns = ["model", "model_other", "training_seed"]
        yield _Pair(place, group[columns].reset_index(drop=True))


def _rows(
    tested: pd.DataFrame,
    pairs: list[_Pair],
    answers: Answers,
    labels: Floats | None,
    resamples: int,
) -> Iterator[dict[str, Any]]:
    """The comparisons of one task, all on the same resamples."""
    models = np.unique(np.concatenate([pair.runs[["model", "model_other"]] for pair in pairs]))
    rows = tested.loc[models]
    task, metric = pairs[0].place["task"], pairs[0].place["metric"]
    if pairs[0].place["engine"]:
        # A benchmark's metric is a mean over questions.
        metric = labels = None
    count = int(rows["n"].iloc[0]) if labels is None else len(labels)
    stacked = np.stack([_answer(answers, row, count) for _, row in rows.iterrows()])
    random = generator({"task": task, "examples": count, "resamples": resamples})
    values = resampled(metric, labels, stacked, resamples, random)
    known = rows["value"].to_numpy()
    for pair in pairs:
        one, other = (np.searchsorted(models, pair.runs[side]) for side in ("model", "model_other"))
        masks = pair.runs.groupby("training_seed")["model"].transform("size").to_numpy()
        share = 1 / (masks * pair.runs["training_seed"].nunique())
        drawn = _draw_runs(pair, resamples)
        differences = ((values[one] - values[other]) * drawn).sum(axis=0)
        yield {
            **pair.place,
            "runs": len(pair.runs),
            "n": count,
            # Sums of equal parts differ in their last digits.
            "difference": round(float(((known[one] - known[other]) * share).sum()), 12),
            **_told(differences),
        }


def _answer(answers: Answers, row: "pd.Series[Any]", count: int) -> Floats:
    found = answers.get((row["recipe_digest"], row["task"] if row["engine"] else row["head"]))
    if found is None or len(found) != count:
        raise DataError(
            f"{0 if found is None else len(found)} answers of {row['recipe']} are kept to "
            f"{row['n']} examples of {row['task']}, which now has {count}; remove the files of its "
            "scores, and they are made again"
        )
    return found


def _draw_runs(pair: _Pair, resamples: int) -> Floats:
    """How much each run counts in each resample, [runs, resamples]; the sum is 1."""
    weights = np.empty((len(pair.runs), resamples))
    groups = [np.asarray(group.index) for _, group in pair.runs.groupby("training_seed")]
    random = generator({**pair.place, "runs": [len(group) for group in groups]})
    seeds = random.multinomial(len(groups), [1 / len(groups)] * len(groups), size=resamples)
    for group, times in zip(groups, seeds.T, strict=True):
        masks = random.multinomial(times * len(group), [1 / len(group)] * len(group))
        weights[group] = masks.T / (len(group) * len(groups))
    return weights


def _told(differences: Floats) -> dict[str, float]:
    differences = differences.round(12)
    low, high = np.quantile(differences, [0.025, 0.975])
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    p = min(1.0, 2 * (rarer + 1) / (len(differences) + 1))
    return {"low": float(low), "high": float(high), "p": float(p)}


def _ordered(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """By study and family, then experts, head and task as scored; kinds as registered."""
    kinds = {
        "method": list(METHODS),
        "sparsifier": list(SPARSIFIERS),
        "study": ["sweep", "merges"],
    }

    def ranks(column: "pd.Series[Any]") -> "pd.Series[Any]":
        name = str(column.name)
        if name == "rate":
            return column.str.split(",").str[0].astype("float64")
        known = kinds.get(name, list(dict.fromkeys([*scores[name], *column])))
        return column.map({each: rank for rank, each in enumerate(known)}).astype("int64")

    keys = ["study", "family", "experts", "head", "task", "method", "sparsifier", "rate"]
    return table.sort_values([*keys, "settings"], key=ranks, ignore_index=True)
