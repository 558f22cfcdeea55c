"""No sparsifier."""

from typing import Literal

from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, Sparsifier, unchanged


class NoSparsifier(Sparsifier):
    """Keep every delta as it is."""

    kind: Literal["none"] = "none"

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """All deltas, and the expert's parameters to the bit."""
        return unchanged(expert)
