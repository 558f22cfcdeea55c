"""Base class of all settings: frozen, typed, without unknown keys."""

import ast
import inspect
from itertools import pairwise
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import TypeAliasType

from mergegrid.hashing import canonical_json


class Settings(BaseModel):
    """A frozen value that rejects unknown keys and documents its fields in place."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # A process uses few of the classes that it imports.
        defer_build=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    #: Fields that texts, digests and names omit at their default value. So a field that is added
    #: later changes no digest of existing results.
    omitted_when_default: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """The docstrings below the fields, by name of the field, read from the source.

        pydantic's `use_attribute_docstrings` would read them whenever a process starts.
        """
        classes = [base for base in reversed(cls.__mro__) if issubclass(base, Settings)]
        texts = {name: text for base in classes for name, text in _docstrings(base).items()}
        return {name: texts[name] for name in cls.model_fields if name in texts}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in cls.descriptions().items():
            properties[name]["description"] = text
        return schema

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
    """The types of a union, or the type itself, without annotations and names."""
    origin = get_origin(annotation)
    if isinstance(annotation, TypeAliasType):
        return _alternatives(annotation.__value__)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [option for part in get_args(annotation) for option in _alternatives(part)]
    return [annotation]


def _docstrings(settings: type[Settings]) -> dict[str, str]:
    """The docstrings below the fields in the source of a class; none if it has no source."""
    try:
        source = inspect.getsource(settings)
    except (OSError, TypeError):
        return {}
    [definition] = ast.parse(dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
