"""The figure of ordered pairs: each expert's score when merged with one other."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mergegrid.study.reporting import style
from mergegrid.study.reporting.drawing import in_style, legend_below, note, panels
from mergegrid.study.reporting.order import METHOD_ORDER, SPARSIFIER_ORDER
from mergegrid.study.reporting.pairs import pair_runs
from mergegrid.study.reporting.tables import LEAST_GAIN

_ROW = 0.15
"""Height in inches of the strip of one sparsifier."""
_ORACLE: dict[str, Any] = {
    "marker": "D",
    "markerfacecolor": "none",
    "color": "black",
    "markersize": 5,
    "linestyle": "",
}


@in_style
def pairs_figure(scores: pd.DataFrame, family: str) -> Figure:
    """Draw a panel per method, a strip per target and sparsifier, a dot per source."""
    dots = _dots(scores)
    if dots.empty:
        return note(f"{family}: the study merges no pairs of experts of this family.")
    targets = list(dict.fromkeys(dots["target"]))
    methods = [kind for kind in METHOD_ORDER if kind in set(dots["method"])]
    kinds = [kind for kind in SPARSIFIER_ORDER if kind in set(dots["sparsifier"])]
    height = 0.7 + _ROW * (len(kinds) + 0.6) * len(targets)
    shares = bool(dots["share"].all())
    label = "share of the single expert's score" if shares else "score on the test split"
    figure, axes = panels(len(methods), height, label, shared=True)
    for axis, method in zip(axes, methods, strict=True):
        _draw(axis, dots[dots["method"] == method], targets, kinds)
        axis.set_title(style.words(method))
        if shares:
            axis.axvline(1, color="black", linestyle=(0, (5, 2)), linewidth=1)
    axes[0].set_yticks(range(len(targets)), targets)
    axes[0].set_ylim(len(targets) - 0.5, -0.5)
    replay = " (chosen on the test split)" if "test" in set(dots["selection"]) else ""
    figure.suptitle(f"{family}: each expert merged with one other{replay}")
    figure.supylabel("expert whose task is scored")
    legend_below(figure, _legend(kinds, dots, shares), columns=3)
    return figure


def _dots(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per ordered pair, method and sparsifier.

    Values are shares of the single expert's score if every expert has a meaningful one.
    """
    runs = pair_runs(scores)
    shares = bool((runs["expert"] > LEAST_GAIN).all())
    unit = runs["expert"] if shares else 1.0
    runs = runs.assign(value=runs["value"] / unit, oracle=runs["oracle"] / unit)
    keys = ["target", "source", "task", "method", "sparsifier", "selection"]
    grouped = runs.groupby(keys, as_index=False, sort=False)
    table = grouped.agg(
        mean=("value", "mean"),
        min=("value", "min"),
        max=("value", "max"),
        oracle=("oracle", "mean"),
    )
    return table.assign(share=shares)


def _draw(axis: Axes, dots: pd.DataFrame, targets: list[str], kinds: list[str]) -> None:
    step = 0.84 / len(kinds)
    for row, target in enumerate(targets):
        of_target = dots[dots["target"] == target]
        for place, kind in enumerate(kinds):
            strip = of_target[of_target["sparsifier"] == kind]
            middle = row - 0.42 + step * (place + 0.5)
            # Sources are spread vertically, so that equal values stay apart.
            y = middle + step * 0.6 * _spaced(len(strip))
            color = style.sparsifier_look(kind).color
            axis.hlines(y, strip["min"], strip["max"], color=color, linewidth=0.8, alpha=0.6)
            axis.plot(strip["mean"], y, "o", color=color, markersize=2.6, markeredgewidth=0)
            if len(strip) > 1:
                median = strip["mean"].median()
                axis.vlines(median, middle - step / 2, middle + step / 2, color=color)
        if of_target["oracle"].notna().any():
            axis.plot([of_target["oracle"].mean()], [row], zorder=4, **_ORACLE)
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
    axis.grid(axis="y", visible=False)


def _spaced(count: int) -> Any:
    return np.linspace(-0.5, 0.5, count) if count > 1 else np.zeros(count)


def _legend(kinds: list[str], dots: pd.DataFrame, shares: bool) -> dict[str, Artist]:
    legend: dict[str, Artist] = {}
    for kind in kinds:
        look = style.sparsifier_look(kind)
        label = look.label if kind == "none" else f"{look.label} first, at its chosen rate p"
        legend[label] = Line2D([], [], color=look.color, marker="o", linestyle="")
    legend["median over sources"] = Line2D(
        [], [], color=style.GREY, marker="|", linestyle="", markersize=9, markeredgewidth=1.6
    )
    if (dots["max"] > dots["min"]).any():
        legend["smallest to largest over seeds"] = Line2D([], [], color=style.GREY, linewidth=0.8)
    if shares:
        legend["single expert"] = Line2D([], [], color="black", linestyle=(0, (5, 2)), linewidth=1)
    if dots["oracle"].notna().any():
        legend["one model of both tasks, mean over sources"] = Line2D([], [], **_ORACLE)
    return legend
