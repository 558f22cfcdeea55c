"""CABS: n of m deltas, where no earlier expert has one (arXiv 2503.01874, algorithm 1)."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mergegrid.engine.ops.operations import GRAIN, Array
from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, Sparsifier, kept


class Cabs(Sparsifier):
    """The n largest of every m deltas, at places of no earlier expert (CABS, arXiv 2503.01874)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"order"})

    kind: Literal["cabs"] = "cabs"
    n: Annotated[int, Field(ge=1)] = 64
    """Deltas of a block that each expert keeps."""
    m: Annotated[int, Field(ge=1, le=GRAIN)] = 256
    """Elements of a block, a power of two."""
    order: tuple[str, ...] = ()
    """Experts in the order in which they take their places; unset, by name."""

    @field_validator("m")
    @classmethod
    def _power_of_two(cls, m: int) -> int:
        if m & (m - 1):
            raise ValueError(f"{m} is not a power of two; use e.g. 4, 32 or 256")
        return m

    @model_validator(mode="after")
    def _n_of_m(self) -> "Cabs":
        if self.n > self.m:
            raise ValueError(f"n = {self.n} exceeds m = {self.m}, the size of a block; lower n")
        return self

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """Keep the n largest deltas of each block of m that no earlier expert keeps.

        Blocks are of consecutive elements of the flattened tensor; the last one may be shorter.
        Of equal magnitudes the first counts. A delta of zero takes no place, and nothing is
        rescaled.
        """
        order = self.order or expert.experts
        kept_before: list[Array] = []
        for place, name in enumerate(order[: order.index(expert.expert) + 1], start=1):
            # All experts of a recipe need what those before them keep.
            key = (self.kind, self.n, self.m, order[:place])
            choose = partial(self._choose, expert, name, tuple(kept_before))
            kept_before.append(expert.chunk.shared(key, choose))
        return kept(expert, kept_before[-1])

    def check(self, experts: Sequence[str]) -> None:
        """Check that the order names the experts.

        Raises:
            ValueError: it does not.
        """
        super().check(experts)
        if self.order and sorted(self.order) != sorted(experts):
            raise ValueError(
                f"cabs.order is {', '.join(self.order)}, but the recipe merges "
                f"{', '.join(sorted(experts))}; list each of them once, or omit it"
            )

    def _choose(self, expert: ExpertChunk, name: str, taken: Sequence[Array]) -> Array:
        """The deltas that an expert keeps, where those before it keep `taken`."""
        ops, delta = expert.ops, expert.chunk.delta(name)
        nothing = ops.scaled(delta, 0.0)
        for other in taken:
            delta = ops.where_changed(other, delta, nothing)
        return ops.keep_of_blocks(delta, self.n, self.m)
