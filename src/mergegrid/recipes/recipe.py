"""A recipe: one point of the grid, with one text, one digest and one readable name."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from mergegrid.hashing import digest
from mergegrid.recipes.methods import Average, Method
from mergegrid.recipes.rates import Rated
from mergegrid.recipes.sparsifiers import DropOnly, NoSparsifier, Sparsifier
from mergegrid.settings import Spec


class Recipe(Spec):
    """Which experts of a family are sparsified how, and merged how.

    Example:
        >>> recipe = Recipe(family="minilm", experts=("trec",), sparsifier=Dare(rate=0.9, seed=1))
        >>> recipe.slug
        'minilm/trec/dare~rate=0.9~seed=1/average'
    """

    family: str
    """Base and experts, by the name the configuration gives them."""
    experts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Experts to merge, sorted by name: no method depends on how they are listed."""
    training_seed: Annotated[int, Field(ge=0)] = 0
    """Seed with which the experts were fine-tuned."""
    sparsifier: Sparsifier = NoSparsifier()
    """What happens to the deltas before merging."""
    method: Method = Average()
    """How the sparsified experts become one model."""

    @field_validator("experts")
    @classmethod
    def _distinct_and_sorted(cls, experts: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in experts if experts.count(name) > 1})
        if twice:
            raise ValueError(f"expert {', '.join(twice)} is listed more than once; list it once")
        return tuple(sorted(experts))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the recipe."""
        return digest(self.model_dump(mode="json"))

    @property
    def slug(self) -> str:
        """Readable name, distinct for distinct recipes of one training seed."""
        return "/".join(
            (
                self.family,
                "+".join(self.experts),
                spec_slug(self.sparsifier),
                spec_slug(self.method),
            )
        )


def spec_slug(spec: Spec) -> str:
    """Kind and parameters of a sparsifier or method, e.g. `dare~rate=0.9~seed=1`.

    Rules and numbers for single experts are told apart by a digest: names become paths.
    """
    values = spec.model_dump(mode="json")
    kind = values.pop("kind")
    return "~".join([kind, *(f"{key}={_short(value)}" for key, value in values.items())])


def _short(value: Any) -> str:
    return digest(value)[:8] if isinstance(value, dict | list) else str(value)


def canonical_sparsifier(sparsifier: Sparsifier) -> Sparsifier:
    """The same model under one name: all is kept at rate 0, and only the base is left at 1."""
    if not isinstance(sparsifier, Rated) or sparsifier.rates or sparsifier.rules:
        return sparsifier
    if sparsifier.rate == 0:
        return NoSparsifier()
    if sparsifier.rate == 1 and sparsifier.kind != "masked_finetuned":
        return base_only()
    return sparsifier


def base_only() -> DropOnly:
    """The sparsifier that leaves the base alone."""
    return DropOnly(rate=1, seed=0)
