"""Dropping fine-tuned parameters instead of deltas (arXiv 2311.03099, section 4.7)."""

import torch

from mergegrid.merging.deltas import ExpertDeltas, Sparsified
from mergegrid.merging.masks import keep
from mergegrid.merging.sparsifiers.unchanged import unchanged
from mergegrid.recipe.sparsifiers import MaskedFinetuned


def masked_finetuned(spec: MaskedFinetuned, expert: ExpertDeltas, name: str) -> Sparsified:
    """Set each fine-tuned parameter to 0 with probability p, rescaling the rest if asked to."""
    if spec.rate == 0:
        return unchanged(spec, expert, name)
    finetuned = expert.expert(name)
    mask = keep(spec.seed, expert.name, name, spec.rate, finetuned.shape, finetuned.device)
    scale = 1 / (1 - spec.rate) if spec.rescale and spec.rate < 1 else 1.0
    weight = torch.where(mask, finetuned * scale, 0.0)
    return Sparsified(weight=weight, delta=weight - expert.base(name))
