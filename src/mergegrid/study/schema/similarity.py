"""The study of embeddings: how alike they stay when deltas of an expert are dropped."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Spec
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.study.schema.grids import SparsifierGrid, check_fit, sweep_points


class Similarity(Spec):
    """Embeddings of each sparsified expert against those of the expert as it is, layer by layer.

    Their cosine says why rescaling matters (arXiv 2311.03099, section 4.4).
    """

    sparsifiers: Annotated[list[SparsifierGrid], Field(min_length=1)] = [
        {"kind": "dare"},
        {"kind": "drop_only"},
    ]
    """Sparsifiers to compare; unset rates and seeds are the study's."""
    examples: Annotated[int, Field(ge=1)] = 32
    """Up to so many texts are read: the first test examples of an encoder's task, or the first
    questions of a decoder's first benchmark."""

    def points(self, rates: Sequence[float], seeds: Sequence[int]) -> list[AnySparsifier]:
        """Every sparsifier once: the expert as it is comes first, then the base alone."""
        return sweep_points(self.sparsifiers, rates, seeds)

    def recipes(
        self,
        rates: Sequence[float],
        seeds: Sequence[int],
        family: str,
        expert: str,
        training_seed: int,
    ) -> list[Recipe]:
        """The recipes of one expert."""
        return [
            Recipe(
                family=family, experts=(expert,), training_seed=training_seed, sparsifier=sparsifier
            )
            for sparsifier in self.points(rates, seeds)
        ]

    def check(self, rates: Sequence[float], seeds: Sequence[int], experts: Iterable[str]) -> None:
        """Check that every sparsifier can be asked of every expert.

        Raises:
            ValueError: one names another expert, or its settings cannot be.
        """
        for sparsifier in self.points(rates, seeds):
            for expert in experts:
                check_fit("similarity.sparsifiers", sparsifier, (expert,))
