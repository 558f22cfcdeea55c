"""The base of everything that can be asked for: frozen, typed, no unknown keys."""

from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mergegrid.hashing import canonical_json


class Spec(BaseModel):
    """A frozen value whose unknown keys are errors and whose fields are documented in place."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    #: Fields that appear in texts, digests and names only where they are not the default.
    refinements: ClassVar[frozenset[str]] = frozenset()

    def __hash__(self) -> int:
        # Not that of the fields: some are mappings.
        return hash(canonical_json(self.model_dump(mode="json")))

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        # pydantic would take true for 1 and false for 0.
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if field and _has_boolean_for_number(value, field.annotation):
                raise ValueError(
                    f"{name} = {value!r}: true and false are not numbers; write a number, "
                    "such as 0 or 1"
                )
        return values

    @model_serializer(mode="wrap")
    def _without_unused_refinements(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self.refinements:
            if name in values and getattr(self, name) == fields[name].default:
                del values[name]
        return values


def _has_boolean_for_number(value: Any, annotation: Any) -> bool:
    """Whether a value holds a boolean where its type has numbers and no booleans."""
    if not isinstance(value, bool | list | tuple | dict):
        return False
    types = _alternatives(annotation)
    if isinstance(value, bool):
        return bool not in types and (int in types or float in types)
    if isinstance(value, dict):
        kinds = [get_args(each)[1] for each in types if get_origin(each) is dict]
        return any(_has_boolean_for_number(each, Union[*kinds]) for each in value.values() if kinds)
    if isinstance(value, list | tuple):
        kinds = [get_args(each)[0] for each in types if get_origin(each) in (list, tuple)]
        return any(_has_boolean_for_number(each, Union[*kinds]) for each in value if kinds)
    return False


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, without what is annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [each for part in get_args(annotation) for each in _alternatives(part)]
    return [annotation]
