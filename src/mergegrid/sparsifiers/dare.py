"""DARE: drop deltas at random, rescale the rest (arXiv 2311.03099, section 3.2)."""

from typing import ClassVar, Literal

from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, inverse, rescaled
from mergegrid.sparsifiers.rates import MaskSeed, RatedSparsifier


class Dare(RatedSparsifier):
    """Drop deltas at random and multiply the rest by 1/(1-p) (arXiv 2311.03099, section 3.2)."""

    at_random: ClassVar[bool] = True

    kind: Literal["dare"] = "dare"
    seed: MaskSeed = 0
    """Seed of the random mask."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Keep each delta with probability 1-p and multiply it by 1/(1-p); the others become 0."""
        return rescaled(expert, expert.thinned(expert.delta, self.seed, inverse(expert.rate)))
