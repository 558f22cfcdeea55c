"""Dropping fine-tuned parameters instead of deltas (arXiv 2311.03099, section 4.7)."""

from mergegrid.recipes.sparsifiers import MaskedFinetuned
from mergegrid.sparsifiers.sparsifier import ExpertRun, Sparsified, inverse


def masked_finetuned(spec: MaskedFinetuned, expert: ExpertRun) -> Sparsified:
    """Set each fine-tuned parameter to 0 with probability p, rescaling the rest if asked to."""
    factor = inverse(expert.rate) if spec.rescale else 1.0
    weight = expert.thinned(expert.weight, spec.seed, factor)
    return Sparsified(lambda: expert.ops.subtract(weight, expert.base), lambda: weight)
