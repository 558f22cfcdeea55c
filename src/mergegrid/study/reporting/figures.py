"""Figures of one family: scores against drop rates, and merges against experts."""

import textwrap
from collections.abc import Collection
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from mergegrid.study.reporting import style
from mergegrid.study.reporting.drawing import columns_of, in_style, legend_below, note, panels
from mergegrid.study.reporting.order import SPARSIFIER_ORDER
from mergegrid.study.reporting.rows import BASE, ORACLE, SINGLE
from mergegrid.study.reporting.tables import drop_rates, merge_summary

STAGE_VERSIONS = {"figures": 2}

PANELS = 8
"""Up to this many sets of experts have a panel each; more are drawn as box plots."""
_REFERENCES = {
    SINGLE: ("black", (0, (5, 2))),
    ORACLE: ("black", (0, (6, 1.5, 1, 1.5))),
    BASE: (style.GREY, (0, (1, 1.5))),
}
_LEGEND = {
    SINGLE: "single experts, each on its task",
    ORACLE: "oracle: one model trained on all tasks",
    BASE: "base",
}


@in_style
def drop_rate_figure(scores: pd.DataFrame, family: str) -> Figure:
    """Draw each expert's score against the drop rate: a line per sparsifier, a panel per expert.

    Bands span the smallest to the largest value over seeds.
    """
    points = drop_rates(scores)
    lines = points[points["sparsifier"] != BASE]
    if lines.empty:
        return note(f"{family}: the study has no sweep of single experts.")
    groups: list[Any] = list(points.groupby(["task", "expert"], sort=False))
    rates = sorted(lines["rate"].unique())
    figure, axes = panels(len(groups), 2.5, "drop rate p")
    legend: dict[str, Artist] = {}
    for axis, ((task, expert), panel) in zip(axes, groups, strict=True):
        legend |= _draw_drop_rates(axis, panel, rates)
        title = task if task == expert else f"{expert} on {task}"
        axis.set_title(f"{title} ({panel['metric'].iloc[0]})")
        axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        crowded = len(rates) * columns_of(len(groups)) > 24
        axis.tick_params(axis="x", rotation=90 if crowded else 0)
        axis.grid(axis="x", visible=False)
    if (lines["runs"] > 1).any():
        legend["smallest to largest over seeds"] = Patch(color=style.GREY, alpha=0.25, linewidth=0)
    figure.suptitle(f"{family}: score against drop rate")
    figure.supylabel("score on the test split")
    legend_below(figure, legend, columns=3)
    return figure


@in_style
def merges_figure(scores: pd.DataFrame, family: str) -> Figure:
    """Draw merges, without and with a sparsifier, against the single experts and the base."""
    summary = merge_summary(scores)
    summary = summary[summary["task"] == "mean"]
    if summary.empty:
        return note(f"{family}: the study merges no experts of this family.")
    sets = list(summary["experts"].unique())
    draw = _merge_panels if len(sets) <= PANELS else _merge_boxes
    figure = draw(summary, sets)
    # Selection on the test split is optimistically biased, so the title says so.
    replay = " (chosen on the test split)" if "test" in set(summary["selection"]) else ""
    figure.suptitle(f"{family}: merges against single experts{replay}")
    return figure


def _draw_drop_rates(axis: Axes, panel: pd.DataFrame, rates: list[float]) -> dict[str, Artist]:
    legend: dict[str, Artist] = {}
    place = {rate: index for index, rate in enumerate(rates)}
    whole = panel[panel["sparsifier"] == "none"]
    lines = panel[~panel["sparsifier"].isin(["none", BASE])]
    variants = dict.fromkeys(lines["sparsifier"], 0)
    groups: list[Any] = list(lines.groupby(["sparsifier", "variant"], sort=False))
    for (kind, variant), line in groups:
        look = style.sparsifier_look(kind)
        line = pd.concat([whole, line])
        x = [place[rate] for rate in line["rate"]]
        axis.fill_between(x, line["min"], line["max"], color=look.color, alpha=0.18, linewidth=0)
        drawn = axis.plot(
            x,
            line["mean"],
            color=look.color,
            marker=look.marker,
            linestyle=style.dashes(variants[kind]),
        )
        variants[kind] += 1
        legend[f"{look.label} ({variant})" if variant else look.label] = drawn[0]
    if lines.empty:
        axis.plot([place[rate] for rate in whole["rate"]], whole["mean"], color="black", marker="o")
    for level in panel.loc[panel["sparsifier"] == BASE, "mean"]:
        base = axis.axhline(level, color=style.GREY, linestyle="--", linewidth=1.2, zorder=1)
        legend["base"] = base
    return legend


def _merge_panels(summary: pd.DataFrame, sets: list[str]) -> Figure:
    """Draw a panel per set of experts with a bar per method and sparsifier."""
    merged = summary[~summary["method"].isin(_REFERENCES)]
    methods, kinds = list(merged["method"].unique()), _sparsifiers(merged)
    row_height = max(1.9, 0.5 + 0.2 * len(methods) * len(kinds))
    figure, axes = panels(len(sets), row_height, "mean test score over the tasks", shared=True)
    all_experts = {name for experts in sets for name in experts.split("+")}
    height = 0.84 / len(kinds)
    for axis, experts in zip(axes, sets, strict=True):
        bars: list[Any] = list(summary[summary["experts"] == experts].itertuples())
        for row in bars:
            if row.method in _REFERENCES:
                color, dashes = _REFERENCES[row.method]
                axis.axvline(row.mean, color=color, linestyle=dashes, linewidth=1.3, zorder=3)
                continue
            y = methods.index(row.method) + height * (kinds.index(row.sparsifier) + 0.5) - 0.42
            errors = [[row.mean - row.min], [row.max - row.mean]] if row.runs > 1 else None
            axis.barh(
                y,
                row.mean,
                height * 0.94,
                **_fill(row.method, row.sparsifier),
                xerr=errors,
                error_kw={"elinewidth": 1, "capsize": 2},
            )
            if row.sparsifier != "none":
                _write_in_bar(axis, y, f"p = {row.rate}")
        axis.set_title(_set_title(experts, all_experts), fontsize=9)
        axis.set_yticks(range(len(methods)), [style.words(method) for method in methods])
        axis.grid(axis="y", visible=False)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    axes[0].set_xlim(min(0.0, 1.05 * summary["min"].min()), 1.05 * summary["max"].max())
    legend = _merge_legend(kinds, set(summary["method"]))
    if (summary["runs"] > 1).any():
        legend["smallest to largest over seeds"] = Line2D(
            [], [], color="black", linewidth=1, marker="|", markersize=6
        )
    legend_below(figure, legend, columns=3)
    return figure


def _merge_boxes(summary: pd.DataFrame, sets: list[str]) -> Figure:
    """Draw a box per method and sparsifier over the sets of experts."""
    groups: list[Any] = list(summary.groupby(["method", "sparsifier"], sort=False))
    kinds = _sparsifiers(summary[~summary["method"].isin(_REFERENCES)])
    figure = Figure(figsize=(style.WIDTH, 1.8 + 0.36 * len(groups)), layout="constrained")
    axis = figure.add_subplot()
    labels = []
    for y, ((method, kind), group) in enumerate(groups):
        plain = {"facecolor": "white", "edgecolor": style.GREY}
        axis.boxplot(
            group["mean"],
            positions=[y],
            orientation="horizontal",
            widths=0.65,
            whis=(0, 100),
            patch_artist=True,
            boxprops=plain if method in _REFERENCES else _fill(method, kind),
            # A white outline, because some boxes are dark.
            medianprops={
                "color": "black",
                "linewidth": 1.8,
                "path_effects": [withStroke(linewidth=4, foreground="white")],
            },
        )
        with_kind = f" + {style.words(kind)}" if kind not in ("", "none") else ""
        labels.append(f"{style.words(method)}{with_kind}")
    axis.set_yticks(range(len(groups)), labels)
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("mean score over the tasks of the merged experts, on the test split")
    axis.set_title(
        f"{len(sets)} sets of experts: box = middle half, line = median, whiskers = all",
        fontsize=9,
    )
    entries = _merge_legend(kinds, ())
    legend = {name: artist for name, artist in entries.items() if isinstance(artist, Patch)}
    legend_below(figure, legend, columns=3)
    return figure


def _merge_legend(kinds: list[str], methods: Collection[str]) -> dict[str, Artist]:
    legend: dict[str, Artist] = {}
    for kind in kinds:
        look = style.sparsifier_look(kind)
        label = look.label if kind == "none" else f"{look.label} first, at its chosen rate p"
        color = style.lighter(style.GREY) if kind == "none" else style.GREY
        legend[label] = Patch(facecolor=color, edgecolor="white", hatch=look.hatch)
    for name, (color, dashes) in _REFERENCES.items():
        if name != ORACLE or name in methods:
            legend[_LEGEND[name]] = Line2D([], [], color=color, linestyle=dashes, linewidth=1.3)
    return legend


def _fill(method: str, sparsifier: str) -> dict[str, Any]:
    """Return the style of a bar: pale without a sparsifier, full and hatched with one."""
    color = style.method_look(method).color
    face = style.lighter(color) if sparsifier == "none" else color
    hatch = style.sparsifier_look(sparsifier).hatch
    return {"facecolor": face, "edgecolor": "white", "hatch": hatch}


def _sparsifiers(merged: pd.DataFrame) -> list[str]:
    kinds = set(merged["sparsifier"])
    return [kind for kind in SPARSIFIER_ORDER if kind in kinds]


def _write_in_bar(axis: Axes, y: float, text: str) -> None:
    """Write small text at the foot of a bar, on a white box that covers the hatch."""
    box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "boxstyle": "round,pad=0.15"}
    axis.annotate(
        text, (0, y), (4, 0), textcoords="offset points", va="center_baseline", fontsize=6.5,
        bbox=box,
    )  # fmt: skip


def _set_title(experts: str, all_experts: set[str]) -> str:
    names = experts.split("+")
    if len(names) > 2 and set(names) == all_experts:
        return f"all {len(names)} experts"
    return textwrap.fill(" + ".join(names), 30)
