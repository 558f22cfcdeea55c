"""What can be asked of a sparsifier: which parameters are dropped before merging."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mergegrid.recipes.rates import Rate, Rated
from mergegrid.settings import Spec

MaskSeed = Annotated[int, Field(ge=0)]
Scope = Literal["per_tensor", "global"]
Arithmetic = Literal["exact", "reference"]


class NoSparsifier(Spec):
    """Keep every delta as it is."""

    kind: Literal["none"] = "none"


class Dare(Rated):
    """Drop deltas at random and multiply the rest by 1/(1-p) (arXiv 2311.03099, section 3.2)."""

    kind: Literal["dare"] = "dare"
    seed: MaskSeed = 0
    """Seed of the random mask."""


class DropOnly(Rated):
    """Drop deltas at random, without rescaling (arXiv 2311.03099, section 4.4)."""

    kind: Literal["drop_only"] = "drop_only"
    seed: MaskSeed = 0
    """Seed of the random mask."""


class Magnitude(Rated):
    """Drop the deltas of smallest magnitude (arXiv 2311.03099, section 4.5)."""

    refinements: ClassVar[frozenset[str]] = Rated.refinements | {"arithmetic"}

    kind: Literal["magnitude"] = "magnitude"
    scope: Scope = "per_tensor"
    """Whether the share is dropped of each tensor or of the whole model: with rules, of all
    tensors of one rate."""
    rescale: bool = False
    """Whether to multiply the rest by 1/(1-p)."""
    arithmetic: Arithmetic = "exact"
    """`reference` drops int(p * n) deltas and all that are equal to the largest of them, as the
    paper's code does; `exact` drops round(p * n)."""


class MaskedFinetuned(Rated):
    """Drop fine-tuned parameters themselves, not deltas (arXiv 2311.03099, section 4.7).

    The one sparsifier that does not return the base at p=1: nothing of the model is left there.
    """

    kind: Literal["masked_finetuned"] = "masked_finetuned"
    seed: MaskSeed = 0
    """Seed of the random mask."""
    rescale: bool = True
    """Whether to multiply the rest by 1/(1-p), as the paper does."""


class Della(Rated):
    """Drop deltas at random, small ones more often, and divide each by its keep probability.

    Source: arXiv 2406.11617, section 3.1.
    """

    kind: Literal["della"] = "della"
    window: Rate = 0.1
    """How far the drop probability of the smallest and the largest delta of a row lies from the
    rate, on either side; less where it would pass 0 or 1."""
    seed: MaskSeed = 0
    """Seed of the random mask."""


class Breadcrumbs(Rated):
    """Drop the largest deltas and the smallest (arXiv 2312.06795, section 3.2)."""

    kind: Literal["breadcrumbs"] = "breadcrumbs"
    largest: Rate = 0.01
    """Share of deltas, of largest magnitude, that is among those dropped."""
    scope: Scope = "per_tensor"
    """Whether shares are of each tensor or of the whole model: with rules, of all tensors of one
    rate."""

    @model_validator(mode="after")
    def _fits(self) -> "Breadcrumbs":
        for rate in (self.rate, *self.rates.values(), *(rule.rate for rule in self.rules)):
            if 0 < rate < self.largest:
                raise ValueError(
                    f"largest is {self.largest} and the rate only {rate}, of which it is a part; "
                    "lower largest or raise the rate"
                )
        return self


SPARSIFIERS = (NoSparsifier, Dare, DropOnly, Magnitude, MaskedFinetuned, Della, Breadcrumbs)
Sparsifier = Annotated[
    NoSparsifier | Dare | DropOnly | Magnitude | MaskedFinetuned | Della | Breadcrumbs,
    Field(discriminator="kind"),
]
