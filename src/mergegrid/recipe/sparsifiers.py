"""What can be asked of a sparsifier: which parameters are dropped before merging."""

from typing import Annotated, Literal

from pydantic import Field

from mergegrid.recipe.spec import Spec

Rate = Annotated[float, Field(ge=0, le=1)]
MaskSeed = Annotated[int, Field(ge=0)]
Scope = Literal["per_tensor", "global"]


class NoSparsifier(Spec):
    """Keep every delta as it is."""

    kind: Literal["none"] = "none"


class Dare(Spec):
    """Drop deltas at random and multiply the rest by 1/(1-p) (arXiv 2311.03099, section 3.2)."""

    kind: Literal["dare"] = "dare"
    rate: Rate
    """Share p of deltas that is dropped."""
    seed: MaskSeed = 0
    """Seed of the random mask."""


class DropOnly(Spec):
    """Drop deltas at random, without rescaling (arXiv 2311.03099, section 4.4)."""

    kind: Literal["drop_only"] = "drop_only"
    rate: Rate
    """Share p of deltas that is dropped."""
    seed: MaskSeed = 0
    """Seed of the random mask."""


class Magnitude(Spec):
    """Drop the deltas of smallest magnitude (arXiv 2311.03099, section 4.5)."""

    kind: Literal["magnitude"] = "magnitude"
    rate: Rate
    """Share p of deltas that is dropped."""
    scope: Scope = "per_tensor"
    """Whether the share is dropped of each tensor or of the whole model."""
    rescale: bool = False
    """Whether to multiply the rest by 1/(1-p)."""


class MaskedFinetuned(Spec):
    """Drop fine-tuned parameters themselves, not deltas (arXiv 2311.03099, section 4.7).

    The one sparsifier that does not return the base at p=1: nothing of the model is left there.
    """

    kind: Literal["masked_finetuned"] = "masked_finetuned"
    rate: Rate
    """Share p of parameters that is set to zero."""
    seed: MaskSeed = 0
    """Seed of the random mask."""
    rescale: bool = True
    """Whether to multiply the rest by 1/(1-p), as the paper does."""


SPARSIFIERS = (NoSparsifier, Dare, DropOnly, Magnitude, MaskedFinetuned)
Sparsifier = Annotated[
    NoSparsifier | Dare | DropOnly | Magnitude | MaskedFinetuned, Field(discriminator="kind")
]
