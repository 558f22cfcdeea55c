"""Style of figures: a color, marker and hatch for each kind, safe for color-blind readers.

A kind looks the same in every figure of every study: looks follow the order of the registries of
sparsifiers and methods, to which new entries are only appended.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.colors import to_rgb

from mergegrid.study.reporting.order import METHOD_ORDER, SPARSIFIER_ORDER

WIDTH = 10.0
"""Width of every figure in inches: 1000 px at 100 dpi, where 9 points are 12.5 px."""
GREY = "#666666"
SMALL = 8
"""Size of secondary text in points."""

# Okabe and Ito's palette without yellow, which is too pale for a line on white.
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Paul Tol's muted palette: other hues, so that methods and sparsifiers are not confused.
_BARS = (
    "#332288", "#44AA99", "#CC6677", "#999933", "#882255", "#88CCEE", "#DDCC77", "#117733",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("////", "....", "xxxx", "++++", "\\\\\\\\", "oooo", "----")
_DASHES = ("-", (0, (4, 2)), ":", "-.")
_WORDS = {
    "cabs": "CABS",
    "consensus": "Consensus",
    "dare": "DARE",
    "della": "DELLA",
    "emr": "EMR",
    "fisher": "Fisher",
    "iso_c": "Iso-C",
    "iso_cts": "Iso-CTS",
    "karcher": "Karcher",
    "knots": "KnOTS",
    "magmax": "MagMax",
    "masked_finetuned": "masked fine-tuned",
    "multislerp": "MultiSLERP",
    "nuslerp": "NuSLERP",
    "pcb": "PCB",
    "ram": "RAM",
    "regmean": "RegMean",
    "sce": "SCE",
    "slerp": "SLERP",
    "tall": "TALL",
    "tall_mask": "TALL mask",
    "ties": "TIES",
    "tsv_m": "TSV-M",
    "wudi": "WUDI",
}

RC: Mapping[str, Any] = {
    "font.family": ["DejaVu Sans"],  # Shipped with matplotlib: the same on every machine.
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.titlesize": 12,
    "figure.labelsize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # Text stays text, for search and screen readers.
    "svg.hashsalt": "mergegrid",  # Otherwise element ids are random.
}


@dataclass(frozen=True)
class Look:
    """Style of one kind."""

    label: str
    color: str
    marker: str
    hatch: str


def styled() -> AbstractContextManager[None]:
    """Return a context with the style of mergegrid, independent of the user's settings."""
    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, **RC}
    del settings["backend"]
    return matplotlib.rc_context(settings)


def sparsifier_look(kind: str) -> Look:
    """Return the look of a sparsifier; `none` is grey and has no hatch."""
    if kind == "none":
        return Look("every delta kept", GREY, "o", "")
    return _look(kind, _LINES, SPARSIFIER_ORDER.index(kind) - 1)


def method_look(kind: str) -> Look:
    """Return the look of a merging method."""
    return _look(kind, _BARS, METHOD_ORDER.index(kind))


def expert_look(index: int) -> tuple[str, Any]:
    """Return color and dashes of the expert at this position in its family."""
    return _LINES[index % len(_LINES)], dashes(index // len(_LINES))


def dashes(index: int) -> Any:
    """Return the line style of a variant, which shares its color with others."""
    return _DASHES[index % len(_DASHES)]


def lighter(color: str, share: float = 0.55) -> tuple[float, float, float]:
    """Mix a color with a share of white."""
    red, green, blue = (value + (1 - value) * share for value in to_rgb(color))
    return red, green, blue


def words(kind: str) -> str:
    """Return the readable name of a kind, e.g. `task arithmetic`, `DARE`."""
    return _WORDS.get(kind, kind.replace("_", " "))


def _look(kind: str, colors: tuple[str, ...], index: int) -> Look:
    # Each further time that a color occurs, it has another marker and hatch.
    shape = index + index // len(colors)
    return Look(
        words(kind),
        colors[index % len(colors)],
        _MARKERS[shape % len(_MARKERS)],
        _HATCHES[shape % len(_HATCHES)],
    )
