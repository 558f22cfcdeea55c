"""DropOnly: DARE without the rescaling (arXiv 2311.03099, section 4.4)."""

import torch

from mergegrid.merging.deltas import ExpertDeltas, Sparsified
from mergegrid.merging.masks import keep
from mergegrid.recipe.sparsifiers import DropOnly


def drop_only(spec: DropOnly, expert: ExpertDeltas, name: str) -> Sparsified:
    """Keep each delta with probability 1-p as it is; the others become 0."""
    base, finetuned = expert.base(name), expert.expert(name)
    mask = keep(spec.seed, expert.name, name, spec.rate, base.shape, base.device)
    return Sparsified(
        weight=torch.where(mask, finetuned, base),
        delta=torch.where(mask, finetuned - base, 0.0),
    )
