"""Numbers of the paper beside those of this study."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.rows import rates_text

PAPER_RULE = "accuracy_paper_rule"
"""Metric that extracts answers as the paper's code does."""


def published(scores: pd.DataFrame, cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Compare the paper's numbers with the study's scores, if there are any.

    Args:
        scores: all scores.
        cells: the paper's numbers, from `schema.published_cells`.
    """
    rows = [row for cell in cells for row in _comparisons(_runs_of(scores, cell), cell)]
    return pd.DataFrame(rows, columns=list(TABLES["published"].columns))


def _runs_of(scores: pd.DataFrame, cell: Mapping[str, Any]) -> pd.DataFrame:
    """Select the test scores for a cell: the selected merges, or one expert at the cell's rate."""
    rows = scores[scores["study"] == ("merges" if cell["merged"] else "sweep")]
    compared = rows["primary"] | (rows["metric"] == PAPER_RULE)
    rows = rows[compared & (rows["split"] == "test") & rows["selected"]]
    for name in ("family", "experts", "task", "sparsifier"):
        rows = rows[rows[name] == cell[name]]
    if cell["merged"]:
        rows = rows[rows["method"] == cell["method"]]
    else:
        rows = rows[rows["rate"] == (cell["rate"] or 0.0)]
        if cell["rescale"] is not None:
            rows = rows[rows["settings"].map(_rescales) == cell["rescale"]]
    return rows


def _rescales(settings: str) -> bool:
    return bool(json.loads(settings)["sparsifier"].get("rescale", False))


def _comparisons(runs: pd.DataFrame, cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per metric."""
    copied = ("family", "experts", "models", "method", "sparsifier", "task", "source", "trust")
    return [
        {
            **{name: cell[name] for name in copied},
            "rate": rates_text(group["rate"]),
            "metric": metric,
            "mean": group["value"].mean(),
            "std": group["value"].std(),
            "runs": len(group),
            "n": group["n"].iloc[0],
            "published": cell["published"],
            "difference": group["value"].mean() - cell["published"],
            "differs": _differs(group, cell),
        }
        for metric, group in runs.groupby("metric", sort=False)
    ]


def _differs(group: pd.DataFrame, cell: Mapping[str, Any]) -> str:
    """List the known differences from the paper's experiment, and its unpublished settings."""
    differences = []
    if cell["merged"]:
        differences += _rate_differs(group, cell) + _setting_differs(group, cell)
        if "test" in set(group["selection"]):
            differences.append("ours was chosen on the test split")
    if cell["held_out"]:
        differences.append(f"ours on the {100 * (1 - cell['held_out']):g} % not held out")
    if group["metric"].iloc[0] == "win_rate":
        differences.append("their judge was shut down")
    return "; ".join(differences)


def _rate_differs(group: pd.DataFrame, cell: Mapping[str, Any]) -> list[str]:
    if cell["sparsifier"] == "none":
        return []
    if cell["rate"] is None:
        return ["their rate is not published"]
    return [] if set(group["rate"]) == {cell["rate"]} else [f"their rate is {cell['rate']:g}"]


def _setting_differs(group: pd.DataFrame, cell: Mapping[str, Any]) -> list[str]:
    if cell["scale"] is None:
        return ["their setting of the method is not published"]
    used = {json.loads(text)["method"].get("coefficient") for text in group["settings"]}
    return [] if used == {cell["scale"]} else [f"their coefficient is {cell['scale']:g}"]
