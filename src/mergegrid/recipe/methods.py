"""What can be asked of a merging method: how sparsified experts become one model."""

from typing import Annotated, Literal

from pydantic import Field

from mergegrid.recipe.sparsifiers import Rate, Scope
from mergegrid.recipe.spec import Spec


class Average(Spec):
    """The mean of the experts (arXiv 2203.05482)."""

    kind: Literal["average"] = "average"


class TaskArithmetic(Spec):
    """The base plus a multiple of the summed deltas (arXiv 2212.04089)."""

    kind: Literal["task_arithmetic"] = "task_arithmetic"
    coefficient: float = 1.0
    """Factor of the summed deltas."""


class Ties(Spec):
    """Trim, elect a sign, average what agrees with it (arXiv 2306.01708)."""

    kind: Literal["ties"] = "ties"
    coefficient: float = 1.0
    """Factor of the merged delta."""
    trim: Rate = 0.8
    """Share of deltas of smallest magnitude that each expert loses before the election."""
    scope: Scope = "global"
    """Whether the share is trimmed of each tensor or of the whole model."""


METHODS = (Average, TaskArithmetic, Ties)
Method = Annotated[Average | TaskArithmetic | Ties, Field(discriminator="kind")]
