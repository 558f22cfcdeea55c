"""The figure of scores against the length of answers, with the Pareto front."""

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from mergegrid.study.reporting import style
from mergegrid.study.reporting.answers import SETTING
from mergegrid.study.reporting.drawing import in_style, legend_below, note, panels
from mergegrid.study.reporting.rows import BASE, with_variants

_SWEPT = ("coefficient", "t", "weights")
"""Parameters of methods along which a line is drawn."""
_LABELS = 12
"""Up to this many points of a line are labelled with the parameter."""
_FRONT: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": (0, (1, 1.5))}
_RING: dict[str, Any] = {
    **{"marker": "o", "markersize": 11, "markerfacecolor": "none"},
    **{"markeredgecolor": "black", "markeredgewidth": 0.9, "linestyle": ""},
}


@in_style
def pareto_figure(answers: pd.DataFrame, family: str) -> Figure:
    """Draw a panel per benchmark: score against mean tokens, with the Pareto front."""
    if answers.empty:
        return note(f"{family}: no answers of this family were scored.")
    dots = pareto_dots(answers)
    groups: list[Any] = list(dots.groupby("task", sort=False))
    figure, axes = panels(len(groups), 3.4, "mean tokens of an answer")
    legend: dict[str, Artist] = {}
    for axis, (task, panel) in zip(axes, groups, strict=True):
        legend |= _draw(axis, panel)
        axis.set_title(f"{task} ({panel['metric'].iloc[0]})")
    figure.suptitle(f"{family}: score against the length of answers")
    figure.supylabel("score on the test split")
    legend["Pareto front: none as good is shorter"] = Line2D([], [], **{**_FRONT, **_RING})
    legend[_spread(dots["runs"])] = Line2D([], [], color=style.GREY, linewidth=0.8, alpha=0.6)
    legend_below(figure, legend, columns=3)
    return figure


def pareto_dots(answers: pd.DataFrame) -> pd.DataFrame:
    """Return a row per setting: means, spreads, and the line that it belongs to.

    Returns:
        Columns of `SETTING`; `tokens` and `mean`, each with `_low` and `_high`; `runs`; `line`, a
        text that settings along one parameter share, or missing; `at`, the parameter; and `front`,
        whether no other setting of the task is at least as good in both, and better in one.
    """
    rows = with_variants(answers[answers["split"] == "test"])
    grouped = rows.groupby(SETTING, as_index=False, sort=False)
    dots = grouped.agg(
        tokens=("tokens", "mean"),
        tokens_low=("tokens", "min"),
        tokens_high=("tokens", "max"),
        tokens_error=("tokens_stderr", "mean"),
        mean=("value", "mean"),
        mean_low=("value", "min"),
        mean_high=("value", "max"),
        mean_error=("stderr", "mean"),
        runs=("value", "size"),
    )
    single = dots["runs"] == 1
    for name in ("tokens", "mean"):
        error = dots.pop(f"{name}_error").fillna(0.0)
        dots[f"{name}_low"] = dots[f"{name}_low"].mask(single, dots[name] - error)
        dots[f"{name}_high"] = dots[f"{name}_high"].mask(single, dots[name] + error)
    places = [_place(settings) for settings in dots["settings"]]
    dots["at"] = [at for _, at in places]
    rest = pd.Series([rest for rest, _ in places], dots.index, dtype="object")
    same = dots[["experts", "method", "sparsifier", "rate"]].astype(str).agg("|".join, axis=1)
    dots["line"] = (same + "|" + rest).where(dots["at"].notna())
    alone = dots.groupby(["task", "line"])["line"].transform("size") < 2
    dots.loc[alone, "line"] = None
    dots["front"] = False
    for _, group in dots.groupby("task"):
        dots.loc[group.index, "front"] = on_front(group["tokens"], group["mean"])
    return dots


def on_front(cost: ArrayLike, gain: ArrayLike) -> list[bool]:
    """Whether each point is on the Pareto front: none costs as little and gains as much, and
    is better in one of the two."""
    costs, gains = np.asarray(cost, dtype=float), np.asarray(gain, dtype=float)
    as_good = (costs[:, None] <= costs) & (gains[:, None] >= gains)
    better = (costs[:, None] < costs) | (gains[:, None] > gains)
    dominated = (as_good & better).any(axis=0)
    return [bool(kept) for kept in ~dominated & ~np.isnan(costs + gains)]


def _place(text: str) -> tuple[str, float | None]:
    """All settings but the swept one, and its value; of weights, the share of the last expert."""
    settings = json.loads(text)
    method: dict[str, Any] = settings["method"]
    for name in _SWEPT:
        value = method.get(name)
        if name == "weights" and isinstance(value, dict) and len(value) > 1:
            weights = [value[expert] for expert in sorted(value)]
            if all(isinstance(weight, int | float) for weight in weights) and sum(weights):
                value = weights[-1] / sum(weights)
        if isinstance(value, int | float):
            others = {key: method[key] for key in method if key != name}
            rest = json.dumps({**settings, "method": others}, sort_keys=True)
            return f"{name} {rest}", float(value)
    return "", None


def _draw(axis: Axes, panel: pd.DataFrame) -> dict[str, Artist]:
    legend: dict[str, Artist] = {}
    for row in _rows(panel):
        label, look = _look(row)
        axis.plot(
            [row.tokens_low, row.tokens_high], [row.mean] * 2,
            color=look["color"], linewidth=0.8, alpha=0.6,
        )  # fmt: skip
        axis.plot(
            [row.tokens] * 2, [row.mean_low, row.mean_high],
            color=look["color"], linewidth=0.8, alpha=0.6,
        )  # fmt: skip
        (legend[label],) = axis.plot([row.tokens], [row.mean], linestyle="", **look)
    for _, line in panel.dropna(subset="line").groupby("line", sort=False):
        line = line.sort_values("at")
        _, look = _look(next(_rows(line)))
        axis.plot(line["tokens"], line["mean"], color=look["color"], linewidth=1.2, zorder=1)
        if len(line) <= _LABELS:
            for row in _rows(line):
                axis.annotate(
                    f"{row.at:g}", (row.tokens, row.mean), (4, 4), fontsize=6.5,
                    textcoords="offset points",
                )  # fmt: skip
    front = panel[panel["front"]].sort_values(["tokens", "mean"])
    axis.plot(front["tokens"], front["mean"], drawstyle="steps-post", zorder=1, **_FRONT)
    axis.plot(front["tokens"], front["mean"], **_RING)
    return legend


def _spread(runs: "pd.Series[int]") -> str:
    over_questions = "± standard error over questions"
    if (runs == 1).all():
        return over_questions
    one = f" (one run: {over_questions})" if (runs == 1).any() else ""
    return f"smallest to largest over seeds{one}"


def _rows(table: pd.DataFrame) -> Any:
    return table.itertuples()


def _look(row: Any) -> tuple[str, dict[str, Any]]:
    """Label and look of a setting: its method by color; sparsifiers have hollow markers."""
    if row.sparsifier == BASE:
        return "base", {"color": style.GREY, "marker": "X", "markersize": 7}
    alone = "+" not in row.experts
    color = "black" if alone else style.method_look(row.method).color
    if row.sparsifier == "none":
        if alone:
            return "expert alone", {"color": color, "marker": "*", "markersize": 10}
        return style.words(row.method), {"color": color, "marker": "o"}
    kind = style.sparsifier_look(row.sparsifier)
    label = f"{'expert alone' if alone else style.words(row.method)} after {kind.label}"
    return label, {"color": color, "marker": kind.marker, "markerfacecolor": "white"}
