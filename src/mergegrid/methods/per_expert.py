"""The base class of methods that make one model per expert, for its task."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from mergegrid.engine.method import Method
from mergegrid.engine.tensors import Tensors


class PerExpertMethod(Method):
    """A method that makes the model of one expert's task; what the models share is merged."""

    if TYPE_CHECKING:  # A field of every subclass, with its own description.
        expert: str | None

    def for_expert(self, expert: str) -> Self:
        """The method with `expert`, where it names none."""
        return self if self.expert else self.model_copy(update={"expert": expert})

    def check(self, experts: Sequence[str]) -> None:
        """Check that the expert is one of the recipe's.

        Raises:
            ValueError: it is not.
        """
        super().check(experts)
        if self.expert is not None and self.expert not in experts:
            raise ValueError(
                f"{self.kind}.expert is {self.expert}, which is not an expert of this recipe; "
                f"choose among {', '.join(sorted(experts))}"
            )

    def check_values(self, experts: Sequence[str], tensors: Tensors) -> None:
        """Check that there is an expert to make the model of.

        Raises:
            ValueError: there is none, or other settings do not fit the tensors.
        """
        super().check_values(experts, tensors)
        if self.expert is None:
            raise ValueError(
                f"{self.kind} makes one model per expert; set `expert` to the one you want, or to "
                f"a list of several: {', '.join(sorted(experts))}"
            )

    def place(self, experts: Sequence[str]) -> int:
        """The place of the expert among all, sorted by name."""
        assert self.expert is not None, "checked with the values"
        return sorted(experts).index(self.expert)
