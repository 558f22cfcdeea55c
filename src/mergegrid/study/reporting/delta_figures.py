"""Figures of the sizes of deltas of one family."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from mergegrid.delta_reports.histograms import EDGES
from mergegrid.delta_reports.paper_range import SMALL
from mergegrid.study.reporting import style
from mergegrid.study.reporting.drawing import in_style, legend_below, note

_SMALLEST_SHARE = 2e-4
"""The axis ends at the outermost bin with a larger share of the deltas."""


@in_style
def deltas_figure(deltas: pd.DataFrame, family: str) -> Figure:
    """Draw the share of each expert's deltas below a size; the mean over training seeds."""
    whole = _whole_experts(deltas)
    if whole.empty:
        return note(f"{family}: there are no deltas to show.")
    quantiles = [name for name in whole.columns if name[0] == "q" and name[1:].isdigit()]
    shares = [*(int(name[1:]) / 10 ** len(name[1:]) for name in quantiles), 1.0]
    figure = Figure(figsize=(style.WIDTH, 5.5), layout="constrained")
    axis = figure.add_subplot()
    legend: dict[str, Artist] = {}
    by_expert = whole.groupby("expert", sort=False)[[*quantiles, "max"]].mean()
    for index, (expert, sizes) in enumerate(by_expert.iterrows()):
        color, dashes = style.expert_look(index)
        # Zero has no place on a log scale: the line starts at the share of zero deltas.
        points = [(size, share) for size, share in zip(sizes, shares, strict=True) if size > 0]
        line = axis.plot(*zip(*points, strict=True), color=color, linestyle=dashes)
        legend[str(expert)] = line[0]
    axis.set_xscale("log")
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xlabel("size of a delta, |fine-tuned - pre-trained parameter| (log scale)")
    axis.set_ylabel("share of parameters with a smaller delta")
    _mark_paper_range(axis)
    figure.suptitle(f"{family}: how far fine-tuning moves parameters")
    legend_below(figure, legend, columns=6)
    return figure


@in_style
def delta_histograms_figure(deltas: pd.DataFrame, family: str) -> Figure:
    """Draw the share of each expert's deltas per half octave: a line per expert.

    Shares are means over training seeds; the deltas closest to zero share one bin with zero.
    """
    whole = _whole_experts(deltas)
    if whole.empty:
        return note(f"{family}: there are no deltas to show.")
    groups: list[Any] = list(whole.groupby("expert", sort=False)["histogram"])
    shares = {
        str(expert): np.mean([np.array(row) / sum(row) for row in rows], axis=0)
        for expert, rows in groups
    }
    first, last = _edges_shown(shares.values())
    figure = Figure(figsize=(style.WIDTH, 5.5), layout="constrained")
    axis = figure.add_subplot()
    sizes = EDGES[first : last + 1]
    edges = [*(-size for size in reversed(sizes)), *sizes]
    legend: dict[str, Artist] = {}
    for index, (expert, share) in enumerate(shares.items()):
        color, dashes = style.expert_look(index)
        middle = len(EDGES)
        values = [
            *share[middle - last : middle - first],
            share[middle - first : middle + first + 1].sum(),
            *share[middle + first + 1 : middle + last + 1],
        ]
        legend[expert] = axis.stairs(
            values, edges, baseline=None, color=color, linestyle=dashes, linewidth=1.6
        )
    axis.set_xscale("symlog", linthresh=sizes[0], linscale=0.5)
    tens = [10.0**power for power in range(-9, 2) if sizes[0] < 10.0**power <= sizes[-1]]
    axis.xaxis.set_major_locator(FixedLocator([*(-ten for ten in reversed(tens)), 0, *tens]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xlabel("delta, fine-tuned - pre-trained parameter (log scale on either side of zero)")
    axis.set_ylabel("share of the parameters, per half octave")
    figure.suptitle(f"{family}: deltas with their signs")
    legend_below(figure, legend, columns=6)
    return figure


def _whole_experts(deltas: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of whole experts that have any delta."""
    return deltas[(deltas["tensor"] == "all") & (deltas["max"] > 0)]


def _edges_shown(shares: Iterable[NDArray[np.float64]]) -> tuple[int, int]:
    """Return the indices of the smallest and largest edge, on either side, worth showing."""
    middle = len(EDGES)
    sizes = np.max([share[middle + 1 :] + share[:middle][::-1] for share in shares], axis=0)
    shown = np.flatnonzero(sizes >= _SMALLEST_SHARE)
    last = min(int(shown[-1]) + 1, middle - 1) if len(shown) else middle - 1
    return min(int(shown[0]) if len(shown) else 0, last - 1), last


def _mark_paper_range(axis: Axes) -> None:
    axis.axvline(SMALL, color="black", linestyle=":", linewidth=1.3)
    low, high = np.log(axis.get_xlim())
    place = (np.log(SMALL) - low) / (high - low)
    axis.text(
        SMALL,
        1.01,
        f"{SMALL}: most deltas in the paper are smaller (arXiv 2311.03099, section 4.6)",
        transform=axis.get_xaxis_transform(),
        ha="right" if place > 0.6 else "left" if place < 0.4 else "center",
        va="bottom",
        fontsize=style.SMALL,
    )
