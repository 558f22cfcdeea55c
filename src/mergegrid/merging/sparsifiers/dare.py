"""DARE: drop deltas at random, rescale the rest (arXiv 2311.03099, section 3.2)."""

import torch

from mergegrid.merging.deltas import ExpertDeltas, Sparsified
from mergegrid.merging.masks import keep
from mergegrid.merging.sparsifiers.unchanged import unchanged
from mergegrid.recipe.sparsifiers import Dare


def dare(spec: Dare, expert: ExpertDeltas, name: str) -> Sparsified:
    """Keep each delta with probability 1-p and multiply it by 1/(1-p); the others become 0."""
    if spec.rate == 0:
        return unchanged(spec, expert, name)
    base, delta = expert.base(name), expert.delta(name)
    mask = keep(spec.seed, expert.name, name, spec.rate, delta.shape, delta.device)
    scale = 0.0 if spec.rate == 1 else 1 / (1 - spec.rate)
    delta = torch.where(mask, delta * scale, 0.0)
    return Sparsified(weight=torch.where(mask, base + delta, base), delta=delta)
