"""A recipe: one grid point, with canonical JSON, a digest and a readable slug."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from mergegrid.hashing import digest
from mergegrid.methods import AnyMethod
from mergegrid.methods.average import Average
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.rates import RatedSparsifier


class Recipe(Settings):
    """Experts of a family, and how they are sparsified and merged.

    Example:
        >>> recipe = Recipe(family="minilm", experts=("trec",), sparsifier=Dare(rate=0.9, seed=1))
        >>> recipe.slug
        'minilm/trec/dare~rate=0.9~seed=1/average'
    """

    family: str
    """Name of the base and its experts in the configuration."""
    experts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Experts to merge, sorted by name: no method depends on how they are listed."""
    training_seed: Annotated[int, Field(ge=0)] = 0
    """Seed with which the experts were fine-tuned."""
    sparsifier: AnySparsifier = NoSparsifier()
    """What happens to the deltas before merging."""
    method: AnyMethod = Average()
    """How the sparsified experts become one model."""

    @field_validator("experts")
    @classmethod
    def _distinct_and_sorted(cls, experts: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in experts if experts.count(name) > 1})
        if twice:
            raise ValueError(f"expert {', '.join(twice)} is listed more than once; list it once")
        return tuple(sorted(experts))

    def for_expert(self, expert: str) -> "Recipe":
        """The recipe of the model for the task of an expert: this one, or that of its method."""
        return self.model_copy(update={"method": self.method.for_expert(expert)})

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
                settings_slug(self.sparsifier),
                settings_slug(self.method),
            )
        )


def settings_slug(settings: Settings) -> str:
    """Kind and parameters of a sparsifier or method, e.g. `dare~rate=0.9~seed=1`.

    Rules and numbers for single experts are told apart by a digest: names become paths.
    """
    values = settings.model_dump(mode="json")
    kind = values.pop("kind")
    return "~".join([kind, *(f"{key}={_short(value)}" for key, value in values.items())])


def _short(value: Any) -> str:
    return digest(value)[:8] if isinstance(value, dict | list) else str(value)


def canonical_sparsifier(sparsifier: AnySparsifier) -> AnySparsifier:
    """One sparsifier for equal models: `none` at rate 0, `base_only()` at rate 1."""
    if not isinstance(sparsifier, RatedSparsifier) or sparsifier.rates or sparsifier.rules:
        return sparsifier
    if sparsifier.rate == 0:
        return NoSparsifier()
    if sparsifier.rate == 1 and sparsifier.leaves_base:
        return base_only()
    return sparsifier


def base_only() -> DropOnly:
    """The sparsifier that leaves only the base."""
    return DropOnly(rate=1, seed=0)
