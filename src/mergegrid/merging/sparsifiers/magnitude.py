"""Magnitude pruning of deltas (arXiv 2311.03099, section 4.5)."""

import torch

from mergegrid.merging.deltas import ExpertDeltas, Sparsified
from mergegrid.merging.sparsifiers.unchanged import unchanged
from mergegrid.recipe.sparsifiers import Magnitude


def magnitude(spec: Magnitude, expert: ExpertDeltas, name: str) -> Sparsified:
    """Drop exactly round(p * n) deltas of smallest magnitude, of the tensor or of the model."""
    if spec.rate == 0:
        return unchanged(spec, expert, name)
    base, finetuned, delta = expert.base(name), expert.expert(name), expert.delta(name)
    mask = expert.cut(name, spec.rate, spec.scope).keep(delta)
    if not spec.rescale or spec.rate == 1:
        return Sparsified(
            weight=torch.where(mask, finetuned, base), delta=torch.where(mask, delta, 0.0)
        )
    delta = torch.where(mask, delta * (1 / (1 - spec.rate)), 0.0)
    return Sparsified(weight=torch.where(mask, base + delta, base), delta=delta)
