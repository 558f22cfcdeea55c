"""The table and the figure of the ranking of merges."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mergegrid.study.reporting import style
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.drawing import in_style, legend_below, note

_ROW = 0.2
"""Height in inches of one entrant."""


def ranking_table(ranking: pd.DataFrame) -> pd.DataFrame:
    """Every entrant for each size of sets, best first."""
    return ranking[list(TABLES["ranking"].columns)]


@in_style
def ranking_figure(ranking: pd.DataFrame, family: str) -> Figure:
    """Draw the ranks of all entrants over all sets, and their scores in percent of the experts'."""
    if ranking.empty:
        return note(f"{family}: fewer than two methods were merged with the same sets of experts.")
    # The last size is `all` if there are several.
    size = ranking["size"].iloc[-1]
    rows = ranking[ranking["size"] == size].reset_index(drop=True)
    values = ["rank", "percent"] if rows["percent"].notna().all() else ["rank"]
    height = 1.9 + _ROW * len(rows)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axis, value in zip(axes, values, strict=True):
        _draw(axis, rows, value)
    axes[0].set_yticks(range(len(rows)), [style.words(method) for method in rows["method"]])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    axes[0].set_xlabel("mean rank over sets; 1 is the best")
    if len(axes) > 1:
        axes[1].set_xlabel("test score in percent of the experts'")
        axes[1].axvline(100, color="black", linestyle=(0, (5, 2)), linewidth=1)
    sets = int(rows["sets"].iloc[0])
    replay = " (chosen on the test split)" if "test" in set(rows["selection"]) else ""
    figure.suptitle(f"{family}: methods over {sets} sets of experts{replay}")
    legend_below(figure, _legend(rows), columns=3)
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, value: str) -> None:
    entrants: list[Any] = list(rows.itertuples())
    for y, row in enumerate(entrants):
        look = style.sparsifier_look(row.sparsifier)
        low, high = getattr(row, f"{value}_low"), getattr(row, f"{value}_high")
        axis.hlines(y, low, high, color=look.color, linewidth=1.2)
        face = "white" if row.significant else look.color
        axis.plot([getattr(row, value)], [y], look.marker, color=look.color, markerfacecolor=face)
    axis.grid(axis="y", visible=False)


def _legend(rows: pd.DataFrame) -> dict[str, Any]:
    kinds = [kind for kind in style.SPARSIFIER_ORDER if kind in set(rows["sparsifier"])]
    legend: dict[str, Any] = {}
    for kind in kinds:
        look = style.sparsifier_look(kind)
        label = look.label if kind == "none" else f"{look.label} first, at its chosen rate"
        legend[label] = Line2D([], [], color=look.color, marker=look.marker, linestyle="")
    plain: dict[str, Any] = {"color": style.GREY, "marker": "o", "linestyle": ""}
    legend["cannot be told apart from the best"] = Line2D([], [], **plain)
    if rows["significant"].any():
        legend["behind the best"] = Line2D([], [], markerfacecolor="white", **plain)
    legend["95 % interval"] = Line2D([], [], color=style.GREY, linewidth=1.2)
    return legend
