"""Base class of all settings: frozen, typed, without unknown keys."""

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


class Settings(BaseModel):
    """A frozen value that rejects unknown keys and documents its fields in place."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    #: Fields that texts, digests and names omit at their default value. So a field that is added
    #: later changes no digest of existing results.
    omitted_when_default: ClassVar[frozenset[str]] = frozenset()

    def __hash__(self) -> int:
        # Some fields are mappings, which have no hash.
        return hash(canonical_json(self.model_dump(mode="json")))

    @model_validator(mode="before")
    @classmethod
    def _reject_booleans_for_numbers(cls, values: Any) -> Any:
        # pydantic would convert true to 1 and false to 0.
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if field and _has_boolean_for_number(value, field.annotation):
                raise ValueError(
                    f"{name} = {value!r}: expected a number, not true or false; write e.g. 0 or 1"
                )
        return values

    @model_serializer(mode="wrap")
    def _omit_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self.omitted_when_default:
            if name in values and getattr(self, name) == fields[name].default:
                del values[name]
        return values


def _has_boolean_for_number(value: Any, annotation: Any) -> bool:
    """Whether a value contains a boolean where its type allows numbers and no booleans."""
    types = _alternatives(annotation)
    if isinstance(value, bool):
        return bool not in types and (int in types or float in types)
    if isinstance(value, dict):
        items = list(value.values())
        inner = [get_args(option)[1] for option in types if get_origin(option) is dict]
    elif isinstance(value, list | tuple):
        items = list(value)
        inner = [get_args(option)[0] for option in types if get_origin(option) in (list, tuple)]
    else:
        return False
    return bool(inner) and any(_has_boolean_for_number(item, Union[*inner]) for item in items)


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, or the type itself, without annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [option for part in get_args(annotation) for option in _alternatives(part)]
    return [annotation]
