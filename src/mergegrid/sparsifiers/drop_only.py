"""DropOnly: DARE without the rescaling (arXiv 2311.03099, section 4.4)."""

from typing import ClassVar, Literal

from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, kept
from mergegrid.sparsifiers.rates import MaskSeed, RatedSparsifier


class DropOnly(RatedSparsifier):
    """Drop deltas at random, without rescaling (arXiv 2311.03099, section 4.4)."""

    at_random: ClassVar[bool] = True

    kind: Literal["drop_only"] = "drop_only"
    seed: MaskSeed = 0
    """Seed of the random mask."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Keep each delta with probability 1-p as it is; the others become 0."""
        return kept(expert, expert.thinned(expert.delta, self.seed, 1.0))
