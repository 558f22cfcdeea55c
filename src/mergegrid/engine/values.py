"""Values: settings that are one number, or differ by layer and by module.

A value is written in one of three ways:

    0.5                                  # one number for all tensors
    {gradient: [0, 0.5, 1]}              # from the first layer to the last, interpolated
    {rules: [{tensors: norms, value: 0},
             {tensors: "*.self_attn.*", value: {gradient: [0, 1]}}],
     default: 0.5}                       # the first rule that covers a tensor counts

In a grid, a list is several values, each written in one of these ways.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from typing_extensions import TypeAliasType

from mergegrid.checkpoints.layers import is_embedding, layer_of
from mergegrid.settings import Settings
from mergegrid.yaml_files import described

_NORM = re.compile(r"(^|[._])((layer)?_?norm\w*|ln_\w+)\.(weight|bias)$", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|score|classifier|cls)\.", re.IGNORECASE)
#: Groups of tensors with a name, and whether a tensor belongs to one.
GROUPS: dict[str, Callable[[str], bool]] = {
    "embeddings": is_embedding,
    "norms": lambda name: _NORM.search(name) is not None,
    "head": lambda name: _HEAD.search(name) is not None,
}
_LAYERS = re.compile(r"layers (\d+)(?:-(\d+))?")
V = TypeVar("V")


class Gradient(Settings):
    """A number that changes from the first layer to the last."""

    gradient: Annotated[tuple[float, ...], Field(min_length=1)]
    """Numbers at equal distances, the first for the first layer and the last for the last;
    interpolated between them. Tensors outside layers (embeddings, final norm, head) have the first;
    the layer of a model of one layer has the last."""

    def at(self, depth: float) -> float:
        """The number at a depth: of n numbers, the one at index depth * (n - 1)."""
        place = depth * (len(self.gradient) - 1)
        before = min(int(place), len(self.gradient) - 2)
        if before < 0:
            return self.gradient[0]
        share = place - before
        return (1 - share) * self.gradient[before] + share * self.gradient[before + 1]


class TensorRule(Settings):
    """A rule about some tensors."""

    tensors: str
    """`embeddings`, `norms`, `head`, `layers 0-3`, or a pattern such as `*.mlp.*`."""

    @field_validator("tensors")
    @classmethod
    def _known(cls, tensors: str) -> str:
        layers = _LAYERS.fullmatch(tensors)
        backwards = layers and layers[2] and int(layers[2]) < int(layers[1])
        if backwards or (tensors.startswith("layers") and not layers and "." not in tensors):
            raise ValueError(f"invalid layers {tensors!r}; use `layers 3` or `layers 0-3`")
        if tensors not in GROUPS and not _LAYERS.fullmatch(tensors) and "." not in tensors:
            if "*" in tensors:
                return tensors
            raise ValueError(
                f"{tensors!r} is not a known group of tensors; use one of {', '.join(GROUPS)}, "
                "`layers 0-3`, or a pattern over names such as `*.mlp.*`"
            )
        return tensors

    def applies(self, tensor: str) -> bool:
        """Whether the rule covers a tensor."""
        if self.tensors in GROUPS:
            return GROUPS[self.tensors](tensor)
        layers = _LAYERS.fullmatch(self.tensors)
        if layers:
            layer = layer_of(tensor)
            first, last = int(layers[1]), int(layers[2] or layers[1])
            return layer is not None and first <= layer.number <= last
        return fnmatchcase(tensor, self.tensors)


def _form(value: Any) -> str:
    if isinstance(value, Gradient) or (isinstance(value, Mapping) and "gradient" in value):
        return "by layer"
    return "by tensor" if isinstance(value, ByTensor | Mapping) else "number"


FORM = Discriminator(_form)
"""Tells the forms of a value apart."""
NUMBER, BY_LAYER, BY_TENSOR = Tag("number"), Tag("by layer"), Tag("by tensor")
"""Mark the types of the forms."""
OneOrGradient = Annotated[Annotated[float, NUMBER] | Annotated[Gradient, BY_LAYER], FORM]


class ValueRule(TensorRule):
    """Another number, or gradient, for some tensors."""

    value: OneOrGradient
    """The number or gradient of these tensors."""


class ByTensor(Settings):
    """A number that differs by module or layer."""

    rules: Annotated[tuple[ValueRule, ...], Field(min_length=1)]
    """Numbers of some tensors; the first rule that covers a tensor counts."""
    default: OneOrGradient
    """The number of all other tensors."""


Varying = Annotated[Gradient, BY_LAYER] | Annotated[ByTensor, BY_TENSOR]
Value = TypeAliasType("Value", Annotated[Annotated[float, NUMBER] | Varying, FORM])
"""A value of any size; see `within` for limits. A named type has one schema for all its fields."""


def within(numbers: Any) -> AfterValidator:
    """Validator of a value all of whose numbers must be of a type, such as `Rate`."""
    adapter = TypeAdapter(numbers)

    def check(value: V) -> V:
        for number in numbers_of(value):
            try:
                adapter.validate_python(number)
            except ValidationError as error:
                raise ValueError(f"{number:g}: {described(error.errors()[0])}") from error
        return value

    return AfterValidator(check)


def part_for(value: Any, name: str) -> "float | Gradient":
    """The number or gradient of a value that a tensor has, by its rules."""
    if isinstance(value, ByTensor):
        return next((rule.value for rule in value.rules if rule.applies(name)), value.default)
    number: float | Gradient = value
    return number


def numbers_of(value: Any) -> Iterator[float]:
    """All numbers in a value."""
    if isinstance(value, ByTensor):
        for part in (*(rule.value for rule in value.rules), value.default):
            yield from numbers_of(part)
    elif isinstance(value, Gradient):
        yield from value.gradient
    else:
        yield value
