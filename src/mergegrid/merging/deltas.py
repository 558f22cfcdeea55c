"""The deltas of an expert, and what is left of them after a sparsifier."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.merging.selection import Cut, cut_smallest
from mergegrid.recipe.sparsifiers import Scope


@dataclass(frozen=True)
class Sparsified:
    """One tensor of an expert after the sparsifier, float32."""

    weight: torch.Tensor
    """The parameters themselves; the expert's to the bit where nothing was changed."""
    delta: torch.Tensor
    """Their difference from the base."""


class Deltas(ABC):
    """Anything with a delta for each tensor name, and exact cuts by magnitude."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._cuts: dict[tuple[float, Scope], Mapping[str, Cut]] = {}

    @abstractmethod
    def delta(self, name: str) -> torch.Tensor:
        """Delta of a tensor, float32."""

    def cut(self, name: str, rate: float, scope: Scope) -> Cut:
        """The cut that drops the share `rate` of smallest magnitude; found once, then kept."""
        if (rate, scope) not in self._cuts:
            self._cuts[rate, scope] = cut_smallest(self.names, self.delta, rate, scope)
        return self._cuts[rate, scope][name]


class ExpertDeltas(Deltas):
    """An expert beside its base: delta = expert - base, for every tensor of the base."""

    def __init__(self, name: str, base: Checkpoint, expert: Checkpoint) -> None:
        super().__init__(tuple(base))
        self.name = name
        self._base, self._expert = base, expert

    def base(self, name: str) -> torch.Tensor:
        """Tensor of the base, float32."""
        return self._base[name].float()

    def expert(self, name: str) -> torch.Tensor:
        """Tensor of the expert, float32."""
        return self._expert[name].float()

    def delta(self, name: str) -> torch.Tensor:
        """Difference of expert and base, float32."""
        return self.expert(name) - self.base(name)
