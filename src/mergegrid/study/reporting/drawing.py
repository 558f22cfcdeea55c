"""Common parts of figures: the style, grids of panels, legends, notes."""

from collections.abc import Callable, Mapping
from functools import wraps
from math import ceil

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mergegrid.study.reporting import style

Draw = Callable[[pd.DataFrame, str], Figure]


def in_style(draw: Draw) -> Draw:
    """Decorate a function to draw the rows of one family in the style of mergegrid."""

    @wraps(draw)
    def styled(frame: pd.DataFrame, family: str) -> Figure:
        with style.styled():
            return draw(frame[frame["family"] == family], family)

    return styled


def panels(
    count: int, row_height: float, xlabel: str, shared: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a grid of panels; only the lowest panel of each column labels its x axis."""
    columns = columns_of(count)
    rows = ceil(count / columns)
    figure = Figure(figsize=(style.WIDTH, rows * row_height + 1.5), layout="constrained")
    grid = (
        figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
        .flatten()
        .tolist()
    )
    for axis in grid[count:]:
        axis.remove()
    # A panel above a gap is the lowest of its column.
    for axis in grid[max(count - columns, 0) : count]:
        axis.set_xlabel(xlabel)
        axis.tick_params(axis="x", labelbottom=True)
    return figure, grid[:count]


def columns_of(count: int) -> int:
    """Return the number of panels side by side."""
    return min(count, 2) if count <= 4 else 3 if count <= 6 else 4


def legend_below(figure: Figure, entries: Mapping[str, Artist], columns: int) -> None:
    """Add one legend for all panels below them."""
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=min(columns, len(entries)),
    )


def note(text: str) -> Figure:
    """Make a figure that only says why there is nothing to show."""
    figure = Figure(figsize=(style.WIDTH, 1.2), layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=11)
    return figure
