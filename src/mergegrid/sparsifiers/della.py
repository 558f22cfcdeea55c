"""DELLA: drop small deltas more often than large ones (arXiv 2406.11617, section 3.1)."""

from typing import ClassVar, Literal

from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, rescaled
from mergegrid.sparsifiers.rates import MaskSeed, RatedSparsifier, RateValue


class Della(RatedSparsifier):
    """Drop deltas at random, small ones more often, and divide each by its keep probability.

    Source: arXiv 2406.11617, section 3.1.
    """

    omitted_when_default: ClassVar[frozenset[str]] = RatedSparsifier.omitted_when_default | {
        "windows"
    }
    whole_rows: ClassVar[bool] = True

    kind: Literal["della"] = "della"
    window: RateValue = 0.1
    """How far the drop probability of the smallest and the largest delta of a row lies from the
    rate, on either side; less where it would pass 0 or 1."""
    windows: dict[str, RateValue] = {}
    """Windows of single experts, instead of `window`."""
    seed: MaskSeed = 0
    """Seed of the random mask."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Drop the delta of rank r in a row of n with probability p + w * (1 - 2r / (n - 1)).

        Ranks count from 0, the smallest magnitude; equal magnitudes rank by index. w is the window,
        at most p and at most 1-p. A kept delta is divided by its keep probability. A row is
        everything that one index of the first dimension holds; a vector is one row.
        """
        window = expert.number(self.windows.get(expert.expert, self.window))
        window = min(window, expert.rate, 1 - expert.rate)
        words = expert.chunk.random_words(self.seed, expert.expert)
        delta = expert.ops.thin_by_rank(
            words, expert.delta, expert.chunk.row, expert.rate - window, expert.rate + window
        )
        return rescaled(expert, delta)
