"""Numbers of the paper beside ours, cell by cell."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mergegrid.study.reporting.specs import TABLES
from mergegrid.study.reporting.tables import rates_text

#: Reads answers as the paper's code does, where it differs from the primary metric.
PAPER_RULE = "accuracy_paper_rule"


def published(scores: pd.DataFrame, cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every published cell that has scores of ours, with the difference to them.

    Args:
        scores: all scores.
        cells: from `config.published_cells`.
    """
    rows = [row for cell in cells for row in _beside(_runs_of(scores, cell), cell)]
    return pd.DataFrame(rows, columns=list(TABLES["published"].columns))


def _runs_of(scores: pd.DataFrame, cell: Mapping[str, Any]) -> pd.DataFrame:
    """Our test scores for a cell: the chosen merges, or one expert at the cell's rate."""
    rows = scores[scores["study"] == ("merges" if cell["merged"] else "sweep")]
    shown = rows["primary"] | (rows["metric"] == PAPER_RULE)
    rows = rows[shown & (rows["split"] == "test") & rows["selected"]]
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


def _beside(runs: pd.DataFrame, cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    same = ("family", "experts", "models", "method", "sparsifier", "task", "source", "trust")
    return [
        {
            **{name: cell[name] for name in same},
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
    """What is known to be done otherwise, and what of theirs is not known."""
    told = []
    if cell["merged"]:
        told += _rate_differs(group, cell) + _setting_differs(group, cell)
        if "test" in set(group["selection"]):
            told.append("ours was chosen on the test split")
    if cell["held_out"]:
        told.append(f"ours on the {100 * (1 - cell['held_out']):g} % not held out")
    if group["metric"].iloc[0] == "win_rate":
        told.append("their judge was shut down")
    return "; ".join(told)


def _rate_differs(group: pd.DataFrame, cell: Mapping[str, Any]) -> list[str]:
    if cell["sparsifier"] == "none":
        return []
    if cell["rate"] is None:
        return ["their rate is not published"]
    return [] if set(group["rate"]) == {cell["rate"]} else [f"their rate is {cell['rate']:g}"]


def _setting_differs(group: pd.DataFrame, cell: Mapping[str, Any]) -> list[str]:
    if cell["scale"] is None:
        return ["their setting of the method is not published"]
    ours = {json.loads(text)["method"].get("coefficient") for text in group["settings"]}
    return [] if ours == {cell["scale"]} else [f"their coefficient is {cell['scale']:g}"]
