"""The change that a LoRA adapter makes to one tensor: a product of two thin matrices."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mergegrid.checkpoints.dtypes import Floats


@dataclass(frozen=True)
class Direction:
    """Magnitudes of DoRA: the changed weights are scaled to these lengths (arXiv 2402.09353)."""

    magnitude: Floats
    """Lengths [rows] or [columns]."""
    axis: int
    """0: one length per row of the tensor; 1: one per column."""


@dataclass(frozen=True)
class LowRank:
    """scale * left @ right, as a change of a tensor that is seen as a matrix [rows, columns].

    Left and right stand as the base stores the tensor, whatever the layer: they are B and A of a
    linear layer, and the transposes of A and B of an embedding or of GPT-2's Conv1D.
    """

    rows: int
    columns: int
    rank: int
    scale: float
    load: Callable[[], tuple[Floats, Floats]]
    """Reads left [rows, rank] and right [rank, columns]."""
    direction: Direction | None = None
    """Set for DoRA."""
    of_all: int = 1
    """Number of changes whose matrices are stored as one, and read together: experts of a layer."""

    @property
    def bytes(self) -> int:
        """Memory of both matrices in float32."""
        return 4 * self.rank * (self.rows + self.columns)

    @property
    def read_bytes(self) -> int:
        """Memory while they are read: as stored and in float32, with those stored as one."""
        return 2 * self.bytes * self.of_all

    def factors(self) -> tuple[Floats, Floats]:
        """Read left [rows, rank] and right [rank, columns], contiguous."""
        left, right = self.load()
        return np.ascontiguousarray(left), np.ascontiguousarray(right)
