"""Published numbers beside those of this study."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.rows import rates_text

PAPER_RULE = "accuracy_paper_rule"
"""Metric that extracts answers as the paper's code does."""


def published(scores: pd.DataFrame, cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Compare published numbers with the study's scores, if there are any.

    Args:
        scores: all scores.
        cells: the published numbers, from `schema.published_cells`.
    """
    rows = [row for cell in cells for row in _comparisons(_runs_of(scores, cell), cell)]
    return pd.DataFrame(rows, columns=list(TABLES["published"].columns))


def _runs_of(scores: pd.DataFrame, cell: Mapping[str, Any]) -> pd.DataFrame:
    """Select the test scores for a cell: one expert at the cell's rate, or merges.

    These are the merges with the rate and coefficient of the cell, or the selected ones where the
    study has no such merge on the test split, or the cell's setting is not published.
    """
    rows = scores[scores["study"] == ("merges" if cell["merged"] else "sweep")]
    metrics = [cell["compared"], *([PAPER_RULE] if cell["compared"] == "accuracy" else [])]
    rows = rows[rows["metric"].isin(metrics) & (rows["split"] == "test")]
    for name in ("family", "experts", "task", "sparsifier"):
        rows = rows[rows[name] == cell[name]]
    chosen: pd.DataFrame = rows[rows["selected"]]
    if not cell["merged"]:
        # A harness selects nothing.
        chosen = rows if "," in cell["compared"] else chosen
        chosen = chosen[chosen["rate"] == (cell["rate"] or 0.0)]
        if cell["rescale"] is not None:
            chosen = chosen[chosen["settings"].map(_rescales) == cell["rescale"]]
        return chosen
    scales = [_scale(settings, cell) for settings in rows["settings"]]
    same = pd.Series([scale == cell["scale"] for scale in scales], rows.index, bool)
    if cell["sparsifier"] != "none":
        same &= rows["rate"] == cell["rate"]
    alike: pd.DataFrame = rows[same & (rows["method"] == cell["method"])]
    return chosen[chosen["method"] == cell["method"]] if alike.empty else alike


def _scale(settings: str, cell: Mapping[str, Any]) -> float | str | None:
    """The setting of a recipe that a cell calls its scale: a coefficient, or the share of the
    expert that it names in the sum of weights."""
    method = json.loads(settings)["method"]
    weights = method.get("weights", {})
    if cell["method"] == "average" and (weights or "weighted" in cell):
        numbers = [weights.get(name, 1.0) for name in cell.get("names", ())]
        if not numbers or not all(isinstance(number, int | float) for number in numbers):
            return "weights"
        return round(float(weights.get(cell["weighted"], 1.0) / sum(numbers)), 6)
    value = method.get("coefficient")
    return value if isinstance(value, int | float) else None


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
    differences = [cell["differs"]] if cell["differs"] else []
    if cell["merged"]:
        settings = _rate_differs(group, cell) + _setting_differs(group, cell)
        differences += settings
        if settings and "test" in set(group["selection"]):
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
    used = {_scale(settings, cell) for settings in group["settings"]}
    if cell["scale"] is None:
        return [] if used == {None} else ["their setting of the method is not published"]
    name = f"weight of {cell['weighted']}" if "weighted" in cell else "coefficient"
    return [] if used == {cell["scale"]} else [f"their {name} is {cell['scale']:g}"]
