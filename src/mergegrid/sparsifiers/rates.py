"""Drop rates: one for all tensors, or by expert and by tensor."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field
from typing_extensions import TypeAliasType

from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.values import (
    BY_LAYER,
    FORM,
    NUMBER,
    Gradient,
    TensorRule,
    Value,
    Varying,
    within,
)

T = TypeVar("T", bound=Hashable)
Rate = Annotated[float, Field(ge=0, le=1)]
MaskSeed = Annotated[int, Field(ge=0)]
Scope = Literal["per_tensor", "global"]
Arithmetic = Literal["exact", "reference"]
RateValue = TypeAliasType(
    "RateValue", Annotated[Annotated[Rate, NUMBER] | Varying, FORM, within(Rate)]
)
"""A share that may differ by layer and module."""
Share = Annotated[float, Field(gt=0, le=1)]
ShareValue = TypeAliasType(
    "ShareValue", Annotated[Annotated[Share, NUMBER] | Varying, FORM, within(Share)]
)
"""The same, above 0."""


class Rule(TensorRule):
    """Another rate for some tensors; rate 0 leaves their deltas as they are."""

    rate: Annotated[Annotated[Rate, NUMBER] | Annotated[Gradient, BY_LAYER], FORM, within(Rate)]
    """Share p that is dropped of these tensors."""


class RatedSparsifier(Sparsifier):
    """A sparsifier with a drop rate."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"rates", "rules"})
    leaves_base: ClassVar[bool] = True
    """Whether only the base is left at rate 1."""

    rate: RateValue
    """Share p that is dropped."""
    rates: dict[str, RateValue] = {}
    """Rates of single experts, instead of `rate`."""
    rules: tuple[Rule, ...] = ()
    """Rates of single tensors, of every expert; the first rule that covers a tensor counts."""

    def rate_of(self, expert: str, tensor: str) -> Value:
        """The drop rate of a tensor of an expert."""
        for rule in self.rules:
            if rule.applies(tensor):
                return rule.rate
        return self.rates.get(expert, self.rate)

    def groups(
        self, scope: Scope, expert: str, tensors: Tensors
    ) -> Iterable[tuple[float, tuple[str, ...]]]:
        """Tensors that are cut together, with their rate: single ones, or all of one rate."""
        rates = {name: tensors.number(self.rate_of(expert, name), name) for name in tensors}
        partly = {name: rate for name, rate in rates.items() if 0 < rate < 1}
        return cut_together(scope, partly)


def kept_in_mergekit(rate: float, count: int) -> int:
    """Elements that mergekit keeps of n: int(density * n), with density 1-p."""
    # 1 - 0.9 is a little below 0.1, so that int could give one less.
    return int(round(1 - rate, 12) * count)


def cut_together(scope: Scope, shares: Mapping[str, T]) -> Iterable[tuple[T, tuple[str, ...]]]:
    """Tensors that are cut together, with what is cut: single ones, or all with the same share."""
    if scope == "per_tensor":
        for name, share in shares.items():
            yield share, (name,)
        return
    groups: dict[T, list[str]] = {}
    for name, share in shares.items():
        groups.setdefault(share, []).append(name)
    for share, names in groups.items():
        yield share, tuple(names)
