"""DARE: drop deltas at random, rescale the rest (arXiv 2311.03099, section 3.2)."""

from typing import ClassVar, Literal

from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, inverse, rescaled
from mergegrid.sparsifiers.rates import MaskSeed, RatedSparsifier, ShareValue


class Dare(RatedSparsifier):
    """Drop deltas at random and multiply the rest by 1/(1-p) (arXiv 2311.03099, section 3.2)."""

    at_random: ClassVar[bool] = True
    omitted_when_default: ClassVar[frozenset[str]] = RatedSparsifier.omitted_when_default | {
        "rescale",
        "rescales",
    }

    kind: Literal["dare"] = "dare"
    seed: MaskSeed = 0
    """Seed of the random mask."""
    rescale: ShareValue | None = None
    """What the deltas that are kept are divided by, instead of 1-p: q of DAREx-q (arXiv 2410.09344,
    section 4.1), between 1-p and 1. A larger q leaves less variance and shrinks the mean."""
    rescales: dict[str, ShareValue] = {}
    """The same for single experts, instead of `rescale`."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Keep each delta with probability 1-p and divide it by 1-p or q; the others become 0."""
        kept_share = self.rescales.get(expert.expert, self.rescale)
        factor = inverse(expert.rate) if kept_share is None else 1 / expert.number(kept_share)
        return rescaled(expert, expert.thinned(expert.delta, self.seed, factor))
