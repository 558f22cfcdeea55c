"""Rows of scores that a table starts from, with the scores that they are compared with.

A run is one scored recipe; the runs of a setting differ in training seed and mask seed. Comments of
the form `[a, b]` give the columns that identify a row of a frame.
"""

import json
from typing import Any

import pandas as pd

from mergegrid.study.reporting.order import METHOD_ORDER, SPARSIFIER_ORDER

SINGLE, ORACLE, BASE = "single experts", "multitask oracle", "base"
"""References that summaries list among the methods."""
SPREAD = ["mean", "std", "min", "max", "runs"]
_ORDERS: dict[str, tuple[str, ...]] = {
    "sparsifier": ("", "none", BASE, *(kind for kind in SPARSIFIER_ORDER if kind != "none")),
    "method": (SINGLE, ORACLE, BASE, *METHOD_ORDER),
}


def rows_of_study(scores: pd.DataFrame, study: str) -> pd.DataFrame:
    """Select the primary scores of a study; tasks name the engine if a family used several."""
    rows = scores[scores["primary"]]
    several = rows["family"].map(rows.groupby("family")["engine"].nunique()) > 1
    with_engine = rows["task"] + " [" + rows["engine"] + "]"
    rows = rows.assign(task=rows["task"].mask(several, with_engine))
    return rows[rows["study"] == study].reset_index(drop=True)


def sweep_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Select the test rows of single experts; dropping everything is the sparsifier `base`."""
    rows = rows_of_study(scores, "sweep").rename(columns={"experts": "expert"})
    return with_variants(rows[rows["split"] == "test"])


def selected_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Select the test rows of selected merges."""
    rows = rows_of_study(scores, "merges")
    return rows[(rows["split"] == "test") & rows["selected"]]


def selected_with_references(scores: pd.DataFrame) -> pd.DataFrame:
    """Return selected merges [recipe, task] with the scores `expert`, `base` and `oracle`."""
    rows = selected_rows(scores)
    keys = ["family", "experts", "task", "training_seed"]
    # Experts that share a task make a row per head: average them, so that a run is one recipe.
    of_head = ["head", "value", "stderr", "n"]
    same = list(rows.columns.drop(of_head))
    merged = rows.groupby(same, sort=False, dropna=False)[["value"]].mean().reset_index()
    oracle = rows_of_study(scores, "oracle").query("split == 'test'").groupby(keys)["value"].mean()
    merged = merged.join(oracle.rename("oracle"), on=keys)
    return merged.merge(_references(scores, rows), how="left", on=keys)


def _references(scores: pd.DataFrame, merged: pd.DataFrame) -> pd.DataFrame:
    """Return the scores `expert` and `base` [family, experts, task, training_seed].

    They belong to the expert whose head the merge is scored with; if several experts of a set have
    a head for one task, they are averaged.
    """
    sweep = sweep_rows(scores)
    single = ["family", "expert", "task", "training_seed"]
    names = {"none": "expert_score", BASE: "base"}
    alone = pd.concat(
        [
            sweep[sweep["sparsifier"] == kind].groupby(single)["value"].mean().rename(name)
            for kind, name in names.items()
        ],
        axis=1,
    ).reset_index()  # [family, expert, task, training_seed]
    heads = merged[["family", "experts", "task", "head"]].drop_duplicates()
    heads = heads.rename(columns={"head": "expert"})  # [family, experts, task, expert]
    of_heads = heads.merge(alone, on=["family", "expert", "task"])
    keys = ["family", "experts", "task", "training_seed"]
    means = of_heads.groupby(keys, as_index=False)[list(names.values())].mean()
    return means.rename(columns={"expert_score": "expert"})


def with_variants(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the column `variant`, and name the recipe that drops everything `base`."""
    is_base = (rows["sparsifier"] == "drop_only") & (rows["rate"] == 1)
    rows = rows.assign(sparsifier=rows["sparsifier"].mask(is_base, BASE))
    labels = variant_labels(rows)
    pairs = zip(rows["sparsifier"], rows["settings"], strict=True)
    return rows.assign(variant=pd.Series([labels[pair] for pair in pairs], rows.index, "string"))


def variant_labels(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Label each sparsifier and settings by what differs between variants, e.g. `scope=global`."""
    labels = {}
    for kind, group in rows.groupby("sparsifier"):
        variants = {text: json.loads(text)["sparsifier"] for text in group["settings"].unique()}
        names = sorted({name for settings in variants.values() for name in settings})
        varying = [
            name
            for name in names
            if len({str(settings.get(name)) for settings in variants.values()}) > 1
        ]
        for text, settings in variants.items():
            values = {name: settings[name] for name in varying if name in settings}
            labels[str(kind), text] = ", ".join(
                f"{name}={value if isinstance(value, str) else json.dumps(value)}"
                for name, value in values.items()
            )
    return labels


def spread(rows: pd.DataFrame, keys: list[str], **more: tuple[str, str]) -> pd.DataFrame:
    """Aggregate values over the runs of each group: the columns of `SPREAD`, and `more`."""
    aggregates = {name: ("value", "size" if name == "runs" else name) for name in SPREAD}
    return rows.groupby(keys, as_index=False, sort=False).agg(**aggregates, **more)


def in_order(table: pd.DataFrame, columns: list[str], like: pd.DataFrame) -> pd.DataFrame:
    """Sort by columns: methods and sparsifiers as registered, others as they appear in `like`."""

    def ranks(column: "pd.Series[Any]") -> "pd.Series[Any]":
        if pd.api.types.is_numeric_dtype(column):
            return column
        registered = _ORDERS.get(str(column.name), ())
        names = list(dict.fromkeys([*registered, *like[column.name], *column]))
        return column.map({name: rank for rank, name in enumerate(names)}).astype("int64")

    return table.sort_values(columns, key=ranks, ignore_index=True)


def rates_text(rates: "pd.Series[float]") -> str:
    """Join the distinct rates of a column, e.g. `0.5, 0.9`."""
    return ", ".join(f"{rate:g}" for rate in sorted(rates.dropna().unique()))
