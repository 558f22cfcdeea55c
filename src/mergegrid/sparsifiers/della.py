"""DELLA: drop small deltas more often than large ones (arXiv 2406.11617, section 3.1)."""

from mergegrid.recipes.sparsifiers import Della
from mergegrid.sparsifiers.sparsifier import ExpertRun, Sparsified, rescaled


def della(spec: Della, expert: ExpertRun) -> Sparsified:
    """Drop the delta of rank r in a row of n with probability p + w * (1 - 2r / (n - 1)).

    Ranks count from 0, the smallest magnitude, equals by index; w is the window, at most p and at
    most 1-p. What is kept is divided by its own keep probability. A row is everything that one
    index of the first dimension holds; a vector is one row.
    """
    window = min(spec.window, expert.rate, 1 - expert.rate)
    words = expert.run.words(spec.seed, expert.expert)
    delta = expert.ops.thin_by_rank(
        words, expert.delta, expert.run.row, expert.rate - window, expert.rate + window
    )
    return rescaled(expert, delta)
