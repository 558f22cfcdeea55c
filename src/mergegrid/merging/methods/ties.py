"""TIES: trim, elect a sign, average what agrees with it (arXiv 2306.01708, section 4)."""

from collections.abc import Sequence

import torch

from mergegrid.merging.sparsified import SparsifiedExpert
from mergegrid.recipe.methods import Ties


def ties(
    spec: Ties, base: torch.Tensor, experts: Sequence[SparsifiedExpert], name: str
) -> torch.Tensor:
    """base + coefficient * mean of the trimmed deltas that agree with the elected sign.

    Each expert loses exactly round(trim * n) deltas of smallest magnitude. The elected sign is
    that of the sum of the trimmed deltas; where the sum is zero, nothing is added. The mean counts
    experts whose trimmed delta is not zero and has that sign. When a sparsifier has already
    dropped more than `trim`, its zeros are what is trimmed, and the trim removes nothing further.
    """
    trimmed = [
        torch.where(expert.cut(name, spec.trim, spec.scope).keep(delta), delta, 0.0)
        for expert in experts
        for delta in [expert[name].delta]
    ]
    elected = torch.stack(trimmed).sum(0).sign()
    total = torch.zeros_like(base)
    count = torch.zeros_like(base)
    for delta in trimmed:
        agrees = (delta.sign() == elected) & (elected != 0)
        total += torch.where(agrees, delta, 0.0)
        count += agrees
    return base + spec.coefficient * (total / count.clamp(min=1))
