"""What an extraction kept of the delta of every tensor."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints.layer_kinds import LayerKind

_HEAD = ("tensor", "shape", "rank", "energy", "error", "share", "seconds")
_COLUMNS = ("tensor", "layer", "rank", "energy", "error", "l2", "share", "seconds")


@dataclass(frozen=True)
class TensorExtraction:
    """The delta of one tensor, and what the adapter holds of it."""

    tensor: str
    """Name of the tensor in the base."""
    layer: LayerKind
    """Kind of layer that it belongs to."""
    shape: tuple[int, ...]
    """Shape of the tensor."""
    rank: int
    """Rank of the factors; 0: not adapted."""
    energy: float
    """Share of the squared norm of the delta that the singular values of the factors add up to."""
    error: float
    """|delta - B A| / |delta| (Frobenius), measured with the factors as written."""
    squared_norm: float
    """Sum of the squared delta."""
    seconds: float
    """Time of one thread."""


@dataclass(frozen=True)
class ExtractionReport:
    """What an adapter holds of the delta of a model."""

    folder: Path
    """The adapter."""
    tensors: Sequence[TensorExtraction]
    """All tensors of the base, sorted by name."""
    notes: Sequence[str]
    """What is not in the adapter, and what was tolerated, a line each."""

    @property
    def adapted(self) -> list[TensorExtraction]:
        """The tensors that the adapter changes."""
        return [tensor for tensor in self.tensors if tensor.rank]

    @property
    def squared_norm(self) -> float:
        """Sum of the squared delta of the whole model."""
        return sum(tensor.squared_norm for tensor in self.tensors)

    @property
    def energy(self) -> float:
        """Share of the squared delta of the whole model that the adapter holds."""
        kept = sum(tensor.energy * tensor.squared_norm for tensor in self.adapted)
        return kept / self.squared_norm

    @property
    def energy_of_adapted(self) -> float:
        """The same share of the adapted matrices alone."""
        kept = sum(tensor.energy * tensor.squared_norm for tensor in self.adapted)
        return kept / sum(tensor.squared_norm for tensor in self.adapted)

    @property
    def ranks(self) -> str:
        """The rank of all adapted matrices, or the range."""
        ranks = [tensor.rank for tensor in self.adapted]
        low, high = min(ranks), max(ranks)
        return f"rank {low}" if low == high else f"ranks {low} to {high}"

    def __str__(self) -> str:
        width = max(len(tensor.tensor) for tensor in self.tensors)
        lines = [_line(_HEAD, width), *(_line(self._cells(one), width) for one in self.adapted)]
        return "\n".join([*lines, *self.notes, self.summary])

    @property
    def summary(self) -> str:
        """One sentence."""
        matrices = len(self.adapted)
        return (
            f"{matrices} {'matrix' if matrices == 1 else 'matrices'} adapted at {self.ranks}: "
            f"they keep {_percent(self.energy_of_adapted)} of their squared delta, "
            f"{_percent(self.energy)} of that of the whole model"
        )

    def write_csv(self, path: Path) -> None:
        """Write one row per tensor, those that are not adapted included."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for one in self.tensors:
                numbers = (one.energy, one.error, one.squared_norm**0.5, self._share(one))
                writer.writerow([one.tensor, one.layer, one.rank, *numbers, round(one.seconds, 3)])

    def _share(self, one: TensorExtraction) -> float:
        return one.squared_norm / self.squared_norm

    def _cells(self, one: TensorExtraction) -> tuple[str, ...]:
        return (
            one.tensor,
            " x ".join(map(str, one.shape)),
            str(one.rank),
            f"{one.energy:.5f}",
            f"{one.error:.3g}",
            _percent(self._share(one)),
            f"{one.seconds:.2f}",
        )


def left_out(tensors: Sequence[TensorExtraction]) -> list[str]:
    """A line for each kind of layer whose deltas the adapter does not hold, with their share."""
    whole = sum(tensor.squared_norm for tensor in tensors)
    lines = []
    for layer in LayerKind:
        lost = [one for one in tensors if one.layer is layer and not one.rank and one.squared_norm]
        if lost:
            share = sum(one.squared_norm for one in lost) / whole
            lines.append(
                f"not in the adapter: {len(lost)} tensor{'s' if len(lost) > 1 else ''} of kind "
                f"'{layer}' ({_percent(share)} of the squared delta), first {lost[0].tensor}"
            )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _line(cells: Sequence[str], width: int) -> str:
    return "  ".join([f"{cells[0]:<{width}}", *(f"{cell:>13}" for cell in cells[1:])])
