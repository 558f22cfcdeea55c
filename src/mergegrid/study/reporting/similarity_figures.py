"""The figure of embeddings of sparsified experts compared with those of the unchanged ones."""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mergegrid.study.reporting import style
from mergegrid.study.reporting.drawing import in_style, legend_below, note
from mergegrid.study.reporting.rows import BASE
from mergegrid.study.reporting.tables import similarity


@in_style
def similarity_figure(frame: pd.DataFrame, family: str) -> Figure:
    """Draw the cosine with the unchanged expert's embeddings against the layer.

    A row of panels per expert, a column per sparsifier, a line per rate: the mean over tokens and
    runs.
    """
    table = similarity(frame)
    table = table[table["value"] == "mean"].dropna(axis="columns", how="all")
    layers = [name for name in table.columns if name.startswith("layer_")]
    lines = table[~table["sparsifier"].isin(["none", BASE])]
    if lines.empty:
        return note(f"{family}: no sparsifier drops some deltas and keeps others.")
    experts: list[str] = list(lines["expert"].unique())
    kinds: list[Any] = list(lines.groupby(["sparsifier", "variant"], sort=False).groups)
    rates = sorted(lines["rate"].unique())
    figure = Figure(figsize=(style.WIDTH, 1.4 + 2.1 * len(experts)), layout="constrained")
    grid = figure.subplots(len(experts), len(kinds), squeeze=False, sharex=True, sharey=True)
    colors = _colors(rates)
    places = range(len(layers))
    for row, expert in zip(grid, experts, strict=True):
        of_expert = table[table["expert"] == expert]
        for axis, (kind, variant) in zip(row, kinds, strict=True):
            of_kind = of_expert["sparsifier"] == kind
            points = of_expert[of_kind & (of_expert["variant"] == variant)]
            for rate, values in zip(points["rate"], points[layers].to_numpy(), strict=True):
                axis.plot(places, values, color=colors[rate], marker=".")
            for values in of_expert.loc[of_expert["sparsifier"] == BASE, layers].to_numpy():
                axis.plot(places, values, color=style.GREY, linestyle="--", linewidth=1.2)
            label = style.words(kind)
            axis.set_title(f"{expert}: {label} ({variant})" if variant else f"{expert}: {label}")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"{family}: embeddings of sparsified experts against those of the expert")
    for axis in grid[-1]:
        axis.set_xlabel("layer (0: what enters the first)")
    figure.supylabel("cosine, mean over tokens")
    legend: dict[str, Artist] = {
        f"p = {rate:g}": Line2D([], [], color=colors[rate], marker=".") for rate in rates
    }
    legend["base"] = Line2D([], [], color=style.GREY, linestyle="--", linewidth=1.2)
    legend_below(figure, legend, columns=7)
    return figure


def _colors(rates: list[float]) -> dict[float, Any]:
    """Color each rate, pale for the lowest and dark for the highest."""
    palette = matplotlib.colormaps["viridis_r"]
    last = max(len(rates) - 1, 1)
    return {rate: palette(0.1 + 0.9 * place / last) for place, rate in enumerate(rates)}
