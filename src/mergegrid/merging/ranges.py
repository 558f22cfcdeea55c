"""How large deltas are: the condition under which DARE works (arXiv 2311.03099, section 4.6)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from mergegrid.merging.deltas import ExpertDeltas

#: The paper's range: deltas of models fine-tuned from their base lie mostly below it.
SMALL = 0.002
QUANTILES = {f"q{percent:02d}": percent / 100 for percent in range(1, 100)} | {"q999": 0.999}
_DROPPED_BITS = 16  # Bins of a 128th of an octave: quantiles are off by less than 0.8 %.


def delta_ranges(expert: ExpertDeltas) -> pd.DataFrame:
    """Size of |delta| of each tensor, and of the whole model as tensor `all`.

    Returns:
        Columns `tensor`, `n`, `mean`, `rms`, `max`, `share_below_0.002`, `q01` to `q99` and
        `q999`: quantiles of |delta|.
    """
    whole = _Sizes()
    rows = []
    for name in expert.names:
        sizes = _Sizes()
        sizes.add(expert.delta(name))
        whole.merge(sizes)
        rows.append({"tensor": name, **sizes.summary()})
    return pd.DataFrame([{"tensor": "all", **whole.summary()}, *rows])


@dataclass
class _Sizes:
    """Running sums and a histogram over the bits of float32 magnitudes, which sort like them."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    small: int = 0
    histogram: torch.Tensor = field(
        default_factory=lambda: torch.zeros(1 << (31 - _DROPPED_BITS), dtype=torch.int64)
    )

    def add(self, delta: torch.Tensor) -> None:
        magnitude = delta.abs().flatten()
        bins = magnitude.view(torch.int32) >> _DROPPED_BITS
        self.n += magnitude.numel()
        self.total += float(magnitude.sum(dtype=torch.float64))
        self.squares += float(magnitude.double().square().sum())
        self.largest = max(self.largest, float(magnitude.max()))
        self.small += int((magnitude < SMALL).sum())
        self.histogram += torch.bincount(bins, minlength=len(self.histogram)).cpu()

    def merge(self, other: "_Sizes") -> None:
        self.n += other.n
        self.total += other.total
        self.squares += other.squares
        self.largest = max(self.largest, other.largest)
        self.small += other.small
        self.histogram += other.histogram

    def summary(self) -> dict[str, float]:
        return {
            "n": self.n,
            "mean": self.total / self.n,
            "rms": (self.squares / self.n) ** 0.5,
            "max": self.largest,
            f"share_below_{SMALL}": self.small / self.n,
            **dict(zip(QUANTILES, self._quantiles(QUANTILES.values()), strict=True)),
        }

    def _quantiles(self, shares: Iterable[float]) -> list[float]:
        below = self.histogram.cumsum(0).numpy()
        ranks = np.ceil(np.array(list(shares)) * self.n)
        bins = np.searchsorted(below, ranks)
        middle = (bins.astype(np.int32) << _DROPPED_BITS) + (1 << (_DROPPED_BITS - 1))
        values = np.where(bins == 0, 0.0, middle.astype(np.int32).view(np.float32))
        return [min(float(value), self.largest) for value in values]
