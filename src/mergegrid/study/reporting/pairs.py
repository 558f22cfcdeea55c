"""Ordered pairs of experts: the target's score when merged with a source (section 4.3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mergegrid.study.reporting.rows import (
    BASE,
    in_order,
    rates_text,
    rows_of_study,
    selected_rows,
    sweep_rows,
)

_PAIR = ["family", "source", "target", "task"]
_METHOD = ["family", "method", "sparsifier", "selection"]
_ROUNDING = 1e-12
"""Smaller changes count as none."""


def pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per ordered pair (source, target), method and sparsifier, scored on the target.

    `change` is the difference to the same method without a sparsifier and with the same training
    seed, averaged over runs.
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
    """Mean change by each sparsifier for each method over all ordered pairs.

    Args:
        scores: all scores.
        published: the paper's average changes: `family`, `method`, `sparsifier` and `value`.
    """
    runs = pair_runs(scores).dropna(subset="change")
    runs = runs[runs["sparsifier"] != "none"]
    # [method, pair]
    of_pair = runs.groupby([*_METHOD, *_PAIR[1:]], as_index=False, sort=False).agg(
        change=("change", "mean"), value=("value", "mean"), without=("without", "mean")
    )
    of_pair["better"] = of_pair["change"] > _ROUNDING
    of_pair["worse"] = of_pair["change"] < -_ROUNDING
    of_seed = runs.groupby([*_METHOD, "training_seed", "mask_seed"], dropna=False)["change"].mean()
    # [method]
    table = of_pair.groupby(_METHOD, as_index=False, sort=False).agg(
        pairs=("change", "size"),
        points=("change", "mean"),
        std_pairs=("change", "std"),
        value=("value", "mean"),
        without=("without", "mean"),
        better=("better", "sum"),
        worse=("worse", "sum"),
    )
    table = table.join(of_seed.groupby(_METHOD).std().rename("std_seeds"), on=_METHOD)
    in_points = ["points", "std_pairs", "std_seeds"]
    table[in_points] *= 100
    table["percent"] = 100 * (table["value"] / table["without"] - 1)
    table["equal"] = table["pairs"] - table["better"] - table["worse"]
    kinds = ["family", "method", "sparsifier"]
    gains = {tuple(cell[name] for name in kinds): cell["value"] for cell in published}
    keys = zip(*(table[name] for name in kinds), strict=True)
    table["published"] = pd.Series([gains.get(key) for key in keys], table.index, "float64")
    table = in_order(table, kinds, like=runs)
    counts = ["better", "equal", "worse"]
    return table[[*kinds, "pairs", *in_points, "percent", *counts, "published", "selection"]]


def pair_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return every selected merge of two experts with reference scores [recipe, target, task].

    `without` is the score of the same method without a sparsifier, `change` the difference to it.
    """
    rows = selected_rows(scores)
    rows = rows[rows["experts"].str.count(r"\+") == 1].rename(columns={"head": "target"})
    sides = rows["experts"].str.split("+").tolist()
    rows["source"] = pd.Series(
        [b if a == head else a for (a, b), head in zip(sides, rows["target"], strict=True)],
        rows.index,
        "string",
    )
    keys = [*_PAIR, "method", "training_seed"]
    plain = rows[rows["sparsifier"] == "none"].groupby(keys)["value"].mean()
    rows = rows.join(plain.rename("without"), on=keys)
    rows["change"] = (rows["value"] - rows["without"]).where(rows["sparsifier"] != "none")
    return _with_references(rows, scores).reset_index(drop=True)


def _with_references(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Add the scores `expert`, `base` and `oracle` of the same training seed."""
    sweep = sweep_rows(scores).rename(columns={"expert": "target"})
    keys = ["family", "target", "task", "training_seed"]
    for kind, name in (("none", "expert"), (BASE, "base")):
        means = sweep[sweep["sparsifier"] == kind].groupby(keys)["value"].mean()
        rows = rows.join(means.rename(name), on=keys)
    oracle = rows_of_study(scores, "oracle").rename(columns={"head": "target"})
    oracle = oracle[oracle["split"] == "test"]
    means = oracle.groupby(["experts", *keys])["value"].mean()
    return rows.join(means.rename("oracle"), on=["experts", *keys])
