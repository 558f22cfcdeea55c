"""How figures look: one colour, marker and hatch for each kind, safe for colour-blind readers.

A kind keeps its look in every figure of every study: looks follow the order of the registries of
sparsifiers and methods, which only grow at the end.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.colors import to_rgb

from mergegrid.methods import METHODS
from mergegrid.sparsifiers import SPARSIFIERS

WIDTH = 10.0
"""Width of every figure in inches: 1000 px at 100 dpi, where 9 points are 12.5 px."""
GREY = "#666666"
SMALL = 8
"""Size of secondary text in points."""

# Okabe and Ito's palette without yellow, which is too pale for a line on white.
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Paul Tol's muted palette: other hues, so that a method is not taken for a sparsifier.
_BARS = (
    "#332288", "#44AA99", "#CC6677", "#999933", "#882255", "#88CCEE", "#DDCC77", "#117733",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("////", "....", "xxxx", "++++", "\\\\\\\\", "oooo", "----")
_DASHES = ("-", (0, (4, 2)), ":", "-.")
_WORDS = {"dare": "DARE", "ties": "TIES", "masked_finetuned": "masked fine-tuned"}

RC: Mapping[str, Any] = {
    "font.family": ["DejaVu Sans"],  # Comes with matplotlib: the same on every machine.
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
    "svg.fonttype": "none",  # Text stays text: it can be searched and read aloud.
    "svg.hashsalt": "mergegrid",  # Otherwise element ids are random.
}


@dataclass(frozen=True)
class Look:
    """How one kind is drawn."""

    label: str
    colour: str
    marker: str
    hatch: str


def styled() -> AbstractContextManager[None]:
    """The style of mergegrid for the block, whatever the user's own settings are."""
    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, **RC}
    del settings["backend"]
    return matplotlib.rc_context(settings)


def sparsifier_look(kind: str) -> Look:
    """The look of a sparsifier; `none` is grey and has no hatch."""
    if kind == "none":
        return Look("every delta kept", GREY, "o", "")
    return _look(kind, _LINES, SPARSIFIER_ORDER.index(kind) - 1)


def method_look(kind: str) -> Look:
    """The look of a merging method."""
    return _look(kind, _BARS, METHOD_ORDER.index(kind))


def expert_look(index: int) -> tuple[str, Any]:
    """Colour and dashes of the expert at this place among its family."""
    return _LINES[index % len(_LINES)], dashes(index // len(_LINES))


def dashes(index: int) -> Any:
    """The line style that tells variants of one colour apart."""
    return _DASHES[index % len(_DASHES)]


def lighter(colour: str, share: float = 0.55) -> tuple[float, float, float]:
    """A colour mixed with a share of white."""
    red, green, blue = (value + (1 - value) * share for value in to_rgb(colour))
    return red, green, blue


def words(kind: str) -> str:
    """A kind as readers know it, e.g. `task arithmetic`, `DARE`."""
    return _WORDS.get(kind, kind.replace("_", " "))


def _kinds(specs: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(spec.model_fields["kind"].default for spec in specs)


SPARSIFIER_ORDER = tuple(SPARSIFIERS)
METHOD_ORDER = tuple(METHODS)


def _look(kind: str, colours: tuple[str, ...], index: int) -> Look:
    return Look(
        words(kind),
        colours[index % len(colours)],
        _MARKERS[index % len(_MARKERS)],
        _HATCHES[index % len(_HATCHES)],
    )
