"""An expert behind its sparsifier, tensor by tensor or held in memory."""

import torch

from mergegrid.merging.deltas import Deltas, ExpertDeltas, Sparsified
from mergegrid.merging.sparsifiers import SPARSIFIERS
from mergegrid.recipe.sparsifiers import Sparsifier


class SparsifiedExpert(Deltas):
    """What methods merge: an expert whose deltas went through a sparsifier.

    `held` keeps every tensor once made, for sweeps that merge the same experts again and again.
    """

    def __init__(self, expert: ExpertDeltas, sparsifier: Sparsifier, held: bool = False) -> None:
        super().__init__(expert.names)
        self._expert = expert
        self._sparsifier = sparsifier
        self._tensors: dict[str, Sparsified] | None = {} if held else None

    def __getitem__(self, name: str) -> Sparsified:
        if self._tensors is None:
            return self._make(name)
        if name not in self._tensors:
            self._tensors[name] = self._make(name)
        return self._tensors[name]

    def delta(self, name: str) -> torch.Tensor:
        """Delta of a tensor after the sparsifier, float32."""
        return self[name].delta

    def _make(self, name: str) -> Sparsified:
        return SPARSIFIERS[self._sparsifier.kind](self._sparsifier, self._expert, name)
