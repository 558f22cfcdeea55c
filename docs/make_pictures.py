"""Draw what every sparsifier and method does to deltas, into `docs/figures/methods`.

    python docs/make_pictures.py

`docs/methods.md` shows the pictures; methods that need model statistics have none.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mergegrid import TaskArithmetic, merge
from mergegrid.methods import METHODS
from mergegrid.sparsifiers import SPARSIFIERS
from mergegrid.sparsifiers.rates import RatedSparsifier
from mergegrid.study.reporting import style

FOLDER = Path(__file__).parent / "figures" / "methods"
SIZE = (4.2, 2.5)
RATE = 0.7
Floats = NDArray[np.float32]


def sparsifier_picture(kind: str) -> Figure:
    """Each delta against what is left of it."""
    random = np.random.default_rng(0)
    delta, other = random.normal(size=(2, 40, 50)).astype(np.float32)
    base = random.normal(size=delta.shape).astype(np.float32)
    of_kind = SPARSIFIERS[kind]
    settings = {"rate": RATE} if issubclass(of_kind, RatedSparsifier) else {}
    alone = TaskArithmetic(coefficients={"one": 1.0, "other": 0.0})
    merged = merge(
        {"w": base},
        {"one": {"w": base + delta}, "other": {"w": base + other}},
        sparsifier=of_kind(**settings),
        method=alone,
    )
    left = merged["w"] - base
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.add_subplot()
    axis.axline((0, 0), slope=1, color=style.GREY, linewidth=0.8, linestyle=":")
    axis.plot(delta.ravel(), left.ravel(), ".", color="#0072B2", markersize=3, alpha=0.5)
    axis.set_xlabel("delta")
    axis.set_ylabel("what is left")
    axis.set_xlim(-3, 3)
    return figure


def plane_picture(kind: str) -> Figure:
    """The merged delta over the plane of two deltas."""
    values = np.linspace(-1, 1, 81, dtype=np.float32)
    one, other = np.meshgrid(values, values)
    base = np.zeros_like(one)
    merged = merge(
        {"w": base}, {"one": {"w": one}, "other": {"w": other}}, method=method_of(kind, "one")
    )["w"]
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.add_subplot()
    limit = 2.0
    image = axis.imshow(
        merged, origin="lower", extent=(-1, 1, -1, 1), cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    axis.set_xlabel("delta of one expert")
    axis.set_ylabel("delta of the other")
    axis.grid(visible=False)
    figure.colorbar(image, label="merged delta")
    return figure


def spectrum_picture(kind: str) -> Figure:
    """Singular values of the merged delta and of the experts' deltas."""
    random = np.random.default_rng(0)
    base = random.normal(size=(64, 48)).astype(np.float32)
    shared = random.normal(size=(64, 4)) @ random.normal(size=(4, 48))
    deltas = [
        (shared + random.normal(size=(64, 48)) * np.linspace(0.2, 2, 48)).astype(np.float32) / 50
        for _ in range(2)
    ]
    names = ("one", "other")
    name = "model.layers.0.mlp.up_proj.weight"
    merged = merge(
        {name: base},
        {key: {name: base + delta} for key, delta in zip(names, deltas, strict=True)},
        method=method_of(kind, "one"),
    )[name]
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.add_subplot()
    for delta, label in zip(deltas, names, strict=True):
        axis.plot(singular(delta), color=style.GREY, linewidth=1, label=f"expert {label}")
    axis.plot(singular(merged - base), color="#D55E00", label="merged")
    axis.set_xlabel("index of the singular value")
    axis.set_ylabel("singular value")
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


def method_of(kind: str, expert: str) -> object:
    """The method at its defaults; those for one task at a time make the model of an expert."""
    return METHODS[kind]().for_expert(expert)


def singular(matrix: Floats) -> Floats:
    """Singular values, largest first."""
    return np.linalg.svd(matrix, compute_uv=False)


def main() -> None:
    """Draw all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with style.styled():
        for kind in SPARSIFIERS:
            write(kind, sparsifier_picture(kind))
        for kind, method in METHODS.items():
            if not method.needs_statistics:
                draw = spectrum_picture if method.whole_rows else plane_picture
                write(kind, draw(kind))


def write(kind: str, figure: Figure) -> None:
    """Write one picture."""
    figure.savefig(FOLDER / f"{kind}.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
