"""Dropping fine-tuned parameters instead of deltas (arXiv 2311.03099, section 4.7)."""

from typing import ClassVar, Literal

from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, inverse
from mergegrid.sparsifiers.rates import MaskSeed, RatedSparsifier


class MaskedFinetuned(RatedSparsifier):
    """Drop fine-tuned parameters themselves, not deltas (arXiv 2311.03099, section 4.7).

    The one sparsifier that does not return the base at p=1: nothing of the model is left there.
    """

    leaves_base: ClassVar[bool] = False

    kind: Literal["masked_finetuned"] = "masked_finetuned"
    seed: MaskSeed = 0
    """Seed of the random mask."""
    rescale: bool = True
    """Whether to multiply the rest by 1/(1-p), as the paper does."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Set each parameter to 0 with probability p; rescale the others if `rescale` is set."""
        factor = inverse(expert.rate) if self.rescale else 1.0
        weight = expert.thinned(expert.weight, self.seed, factor)
        return SparsifiedChunk(lambda: expert.ops.subtract(weight, expert.base), lambda: weight)
