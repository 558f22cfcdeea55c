"""The table and the figure of the ranking of merges."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mergegrid.study.reporting import style
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.drawing import in_style, legend_below, note
from mergegrid.study.reporting.order import SPARSIFIER_ORDER

_ROW = 0.2
"""Height in inches of one entrant."""


def ranking_table(ranking: pd.DataFrame) -> pd.DataFrame:
    """Every entrant for each size of sets, best first."""
    return ranking[list(TABLES["ranking"].columns)]


@in_style
def ranking_figure(ranking: pd.DataFrame, family: str) -> Figure:
    """Draw the ranks of all entrants over all sets, and how far they are behind the best."""
    if ranking.empty:
        return note(f"{family}: fewer than two methods were merged with the same sets of experts.")
    # The last size is `all` if there are several.
    size = ranking["size"].iloc[-1]
    rows = ranking[ranking["size"] == size].reset_index(drop=True)
    height = 1.9 + _ROW * len(rows)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, rows, rows[["rank", "rank_low", "rank_high"]])
    _draw(right, rows, 100 * rows[["behind", "low", "high"]])
    left.set_yticks(range(len(rows)), [style.words(method) for method in rows["method"]])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlabel("rank by the mean score over sets")
    right.set_xlabel("points behind the best")
    right.axvline(0, color="black", linestyle=(0, (5, 2)), linewidth=1)
    sets = int(rows["sets"].iloc[0])
    replay = " (chosen on the test split)" if "test" in set(rows["selection"]) else ""
    of_sets = "one set" if sets == 1 else f"{sets} sets"
    figure.suptitle(f"{family}: methods over {of_sets} of experts{replay}")
    legend_below(figure, _legend(rows), columns=3)
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, values: pd.DataFrame) -> None:
    """Draw `values`, whose columns are a value and the ends of its interval, for each entrant."""
    for y, (row, numbers) in enumerate(zip(rows.itertuples(), values.to_numpy(), strict=True)):
        entrant: Any = row
        value, low, high = numbers
        look = style.sparsifier_look(entrant.sparsifier)
        axis.hlines(y, low, high, color=look.color, linewidth=1.2)
        face = "white" if entrant.significant else look.color
        axis.plot([value], [y], look.marker, color=look.color, markerfacecolor=face)
    axis.grid(axis="y", visible=False)


def _legend(rows: pd.DataFrame) -> dict[str, Any]:
    kinds = [kind for kind in SPARSIFIER_ORDER if kind in set(rows["sparsifier"])]
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
