"""Task arithmetic: the base plus a multiple of the summed deltas (arXiv 2212.04089)."""

from collections.abc import Sequence

import torch

from mergegrid.merging.sparsified import SparsifiedExpert
from mergegrid.recipe.methods import TaskArithmetic


def task_arithmetic(
    spec: TaskArithmetic, base: torch.Tensor, experts: Sequence[SparsifiedExpert], name: str
) -> torch.Tensor:
    """base + coefficient * sum of the deltas."""
    total = experts[0][name].delta
    for expert in experts[1:]:
        total = total + expert[name].delta
    return base + spec.coefficient * total
