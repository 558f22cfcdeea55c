"""Ordered pairs of experts: how the second does when merged with the first (section 4.3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mergegrid.study.reporting.tables import BASE, in_order, rates_text, rows_of_study, sweep_rows

_PAIR = ["family", "source", "target", "task"]
_METHOD = ["family", "method", "sparsifier", "selection"]
#: Changes below this are what rounding leaves of none.
_NOTHING = 1e-12


def pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per ordered pair (source, target), method and sparsifier, scored on the target.

    `change` is what the sparsifier adds to the same method without one, run by run with the same
    training seed.
    """
    runs = pair_runs(scores)
    keys = [*_PAIR, "metric", "method", "sparsifier", "selection"]
    table = runs.groupby(keys, as_index=False, sort=False).agg(
        rate=("rate", rates_text),
        mean=("value", "mean"),
        std=("value", "std"),
        runs=("value", "size"),
        **{name: (name, "mean") for name in ("expert", "base", "oracle", "change")},
    )
    table = in_order(table, [*_PAIR, "method", "sparsifier"], like=runs)
    head = [*_PAIR, "metric", "method", "sparsifier", "rate", "mean", "std", "runs"]
    return table[[*head, "expert", "base", "oracle", "change", "selection"]]


def sparsifier_effects(
    scores: pd.DataFrame, published: Sequence[Mapping[str, Any]] = ()
) -> pd.DataFrame:
    """What each sparsifier adds to each method over all ordered pairs, in points and per cent.

    Args:
        scores: all scores.
        published: the paper's average changes: `family`, `method`, `sparsifier` and `value`.
    """
    runs = pair_runs(scores).dropna(subset="change")
    runs = runs[runs["sparsifier"] != "none"]
    of_pair = runs.groupby([*_METHOD, *_PAIR[1:]], as_index=False, sort=False).agg(
        change=("change", "mean"), value=("value", "mean"), without=("without", "mean")
    )
    of_pair["better"] = of_pair["change"] > _NOTHING
    of_pair["worse"] = of_pair["change"] < -_NOTHING
    of_seed = runs.groupby([*_METHOD, "training_seed", "mask_seed"], dropna=False)["change"].mean()
    table = of_pair.groupby(_METHOD, as_index=False, sort=False).agg(
        pairs=("change", "size"),
        points=("change", "mean"),
        std_pairs=("change", "std"),
        value=("value", "mean"),
        without=("without", "mean"),
        better=("better", "sum"),
        worse=("worse", "sum"),
    )
    spread = of_seed.groupby(_METHOD).std().rename("std_seeds")
    table = table.join(spread, on=_METHOD)
    parts = ["points", "std_pairs", "std_seeds"]
    table[parts] *= 100
    table["percent"] = 100 * (table["value"] / table["without"] - 1)
    table["equal"] = table["pairs"] - table["better"] - table["worse"]
    known = {(each["family"], each["method"], each["sparsifier"]): each["value"]
             for each in published}  # fmt: skip
    places = zip(table["family"], table["method"], table["sparsifier"], strict=True)
    table["published"] = pd.Series([known.get(each) for each in places], table.index, "float64")
    table = in_order(table, ["family", "method", "sparsifier"], like=runs)
    counts = ["better", "equal", "worse"]
    head = [*_METHOD[:-1], "pairs", *parts, "percent"]
    return table[[*head, *counts, "published", "selection"]]


def pair_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """Every run of every chosen merge of two experts, beside what it is measured against.

    `without` is the score of the same method without a sparsifier, `change` the difference to it.
    """
    rows = rows_of_study(scores, "merges")
    rows = rows[(rows["split"] == "test") & rows["selected"]]
    rows = rows[rows["experts"].str.count(r"\+") == 1].rename(columns={"head": "target"})
    sides = rows["experts"].str.split("+").tolist()
    rows["source"] = pd.Series(
        [b if a == head else a for (a, b), head in zip(sides, rows["target"], strict=True)],
        rows.index,
        "string",
    )
    same = [*_PAIR, "method", "training_seed"]
    plain = rows[rows["sparsifier"] == "none"].groupby(same)["value"].mean()
    rows = rows.join(plain.rename("without"), on=same)
    rows["change"] = (rows["value"] - rows["without"]).where(rows["sparsifier"] != "none")
    return _beside(rows, scores).reset_index(drop=True)


def _beside(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Rows with `expert`, `base` and `oracle`, of the same training seed."""
    sweep = sweep_rows(scores).rename(columns={"expert": "target"})
    same = ["family", "target", "task", "training_seed"]
    for kind, name in (("none", "expert"), (BASE, "base")):
        found = sweep[sweep["sparsifier"] == kind].groupby(same)["value"].mean()
        rows = rows.join(found.rename(name), on=same)
    oracle = rows_of_study(scores, "oracle").rename(columns={"head": "target"})
    oracle = oracle[oracle["split"] == "test"]
    found = oracle.groupby(["experts", *same])["value"].mean()
    return rows.join(found.rename("oracle"), on=["experts", *same])
