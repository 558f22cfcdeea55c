"""DropOnly: DARE without the rescaling (arXiv 2311.03099, section 4.4)."""

from mergegrid.recipes.sparsifiers import DropOnly
from mergegrid.sparsifiers.sparsifier import ExpertRun, Sparsified, kept


def drop_only(spec: DropOnly, expert: ExpertRun) -> Sparsified:
    """Keep each delta with probability 1-p as it is; the others become 0."""
    return kept(expert, expert.thinned(expert.delta, spec.seed, 1.0))
