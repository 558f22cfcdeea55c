"""No sparsifier: every delta is kept."""

from mergegrid.merging.deltas import ExpertDeltas, Sparsified
from mergegrid.recipe.spec import Spec


def unchanged(spec: Spec, expert: ExpertDeltas, name: str) -> Sparsified:
    """The expert's tensor as it is, to the bit."""
    return Sparsified(weight=expert.expert(name), delta=expert.delta(name))
