"""What can be asked of a merging method: how sparsified experts become one model."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mergegrid.recipes.rates import Rate
from mergegrid.recipes.sparsifiers import Arithmetic, Scope
from mergegrid.settings import Spec

Weight = Annotated[float, Field(ge=0)]
Examples = Annotated[int, Field(ge=1)]


class Average(Spec):
    """The mean of the experts (arXiv 2203.05482)."""

    refinements: ClassVar[frozenset[str]] = frozenset({"weights"})

    kind: Literal["average"] = "average"
    weights: dict[str, Weight] = {}
    """Weight of each expert, divided by their sum; unset, all are equal."""


class TaskArithmetic(Spec):
    """The base plus a multiple of the summed deltas (arXiv 2212.04089)."""

    refinements: ClassVar[frozenset[str]] = frozenset({"coefficients"})

    kind: Literal["task_arithmetic"] = "task_arithmetic"
    coefficient: float = 1.0
    """Factor of the summed deltas."""
    coefficients: dict[str, float] = {}
    """Further factors of single experts' deltas."""


class Ties(Spec):
    """Trim, elect a sign, average what agrees with it (arXiv 2306.01708)."""

    refinements: ClassVar[frozenset[str]] = frozenset({"arithmetic"})

    kind: Literal["ties"] = "ties"
    coefficient: float = 1.0
    """Factor of the merged delta."""
    trim: Rate = 0.8
    """Share of deltas of smallest magnitude that each expert loses before the election."""
    scope: Scope = "global"
    """Whether the share is trimmed of each tensor or of the whole model."""
    arithmetic: Arithmetic = "exact"
    """`reference` keeps all deltas equal to the threshold and settles a sum of zero by the sign of
    most parameters, as the paper's code does."""


class Slerp(Spec):
    """The point between two experts on the great circle through them."""

    refinements: ClassVar[frozenset[str]] = frozenset({"weights"})

    kind: Literal["slerp"] = "slerp"
    weights: dict[str, Weight] = {}
    """How near the result is to each of the two, divided by their sum; unset, it is half-way."""


class ModelStock(Spec):
    """Average and base, mixed by the angle between the experts (arXiv 2403.19522)."""

    kind: Literal["model_stock"] = "model_stock"


class Sce(Spec):
    """Select, calculate, erase: deltas of high variance, weighted by energy (arXiv 2408.07990)."""

    kind: Literal["sce"] = "sce"
    select: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of elements, of largest variance over the experts, that is merged of each tensor."""


class Fisher(Spec):
    """Experts weighted by their diagonal Fisher information (arXiv 2111.09832)."""

    refinements: ClassVar[frozenset[str]] = frozenset({"weights", "examples", "arithmetic"})

    kind: Literal["fisher"] = "fisher"
    weights: dict[str, Weight] = {}
    """Further factor of each expert's information; unset, all are equal. A factor that all experts
    share cancels, so there is none to search."""
    normalize: bool = False
    """Whether each expert's information is divided by its norm over the model."""
    floor: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the information, so that no weight is zero."""
    examples: Examples | None = None
    """Training examples of each expert that the information is gathered from; unset in a study,
    1024; unset in a merge file, whatever the files of statistics hold."""
    arithmetic: Arithmetic = "exact"
    """`exact` information is the mean over examples of the expected squared gradient; `reference`
    squares the gradient of a batch of 16, as the paper's code does."""


class RegMean(Spec):
    """Linear layers that fit the experts' outputs best in least squares (arXiv 2212.09849)."""

    refinements: ClassVar[frozenset[str]] = frozenset({"examples", "arithmetic"})

    kind: Literal["regmean"] = "regmean"
    offdiagonal: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Factor of the off-diagonal entries of the Gram matrices."""
    ridge: Annotated[float, Field(ge=0)] = 0.0
    """Added to the diagonal of the summed Gram matrices, the same part for each expert, as a
    multiple of its mean; 1e-5 or more is needed where there are fewer inputs than columns."""
    examples: Examples | None = None
    """Training examples of each expert that the Gram matrices are gathered from; unset in a study,
    1024; unset in a merge file, whatever the files of statistics hold."""
    arithmetic: Arithmetic = "exact"
    """`exact` Gram matrices are of the tokens of texts; `reference` takes the padding of batches of
    16 for tokens, as the paper's code does."""


NeedsStatistics = Fisher | RegMean
"""Methods that need to know more of the experts than their parameters."""
METHODS = (Average, TaskArithmetic, Ties, Slerp, ModelStock, Sce, Fisher, RegMean)
Method = Annotated[
    Average | TaskArithmetic | Ties | Slerp | ModelStock | Sce | Fisher | RegMean,
    Field(discriminator="kind"),
]
