"""DARE: drop deltas at random, rescale the rest (arXiv 2311.03099, section 3.2)."""

from mergegrid.recipes.sparsifiers import Dare
from mergegrid.sparsifiers.sparsifier import ExpertRun, Sparsified, inverse, rescaled


def dare(spec: Dare, expert: ExpertRun) -> Sparsified:
    """Keep each delta with probability 1-p and multiply it by 1/(1-p); the others become 0."""
    return rescaled(expert, expert.thinned(expert.delta, spec.seed, inverse(expert.rate)))
