"""Average: the mean of the experts (arXiv 2203.05482)."""

from collections.abc import Sequence

import torch

from mergegrid.merging.sparsified import SparsifiedExpert
from mergegrid.recipe.methods import Average


def average(
    spec: Average, base: torch.Tensor, experts: Sequence[SparsifiedExpert], name: str
) -> torch.Tensor:
    """(1/K) * sum of the experts; a single expert comes back to the bit."""
    total = experts[0][name].weight
    for expert in experts[1:]:
        total = total + expert[name].weight
    return total / len(experts)
