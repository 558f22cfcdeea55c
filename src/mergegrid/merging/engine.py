"""The engine: a recipe and its checkpoints in, a merged checkpoint out."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from mergegrid.checkpoints.checkpoint import Checkpoint, check_homologous
from mergegrid.merging.deltas import ExpertDeltas
from mergegrid.merging.methods import METHODS
from mergegrid.merging.sparsified import SparsifiedExpert
from mergegrid.recipe.methods import Method
from mergegrid.recipe.recipe import Recipe


class MergedCheckpoint(Checkpoint):
    """The tensors of a merged model, float32, each computed when it is asked for.

    It holds the tensors of the base; task heads, which only experts have, are not merged.
    """

    def __init__(
        self, base: Checkpoint, experts: Sequence[SparsifiedExpert], method: Method
    ) -> None:
        self._base, self._experts, self._method = base, experts, method

    def __getitem__(self, name: str) -> torch.Tensor:
        base = self._base[name].float()
        return METHODS[self._method.kind](self._method, base, self._experts, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def merge(recipe: Recipe, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> MergedCheckpoint:
    """The merged checkpoint of a recipe.

    Args:
        recipe: what to merge and how.
        base: the base; its tensors are the ones that are merged.
        experts: a checkpoint for every expert of the recipe.

    Raises:
        CheckpointError: an expert lacks a tensor of the base or has it in another shape.
    """
    for name in recipe.experts:
        check_homologous(base, experts[name], name)
    sparsified = [
        SparsifiedExpert(ExpertDeltas(name, base, experts[name]), recipe.sparsifier)
        for name in recipe.experts
    ]
    return MergedCheckpoint(base, sparsified, recipe.method)
