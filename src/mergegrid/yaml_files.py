"""Reading YAML files, with errors that state the key, its value and the allowed values."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypeAliasType

from mergegrid.errors import ConfigError

T = TypeVar("T", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys, whose first value would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int | float):
                raise ConfigError(
                    f"{node.start_mark.name}: the key in line {line} is not a string or number; "
                    "write `name: value`"
                )
            if key in lines:
                raise ConfigError(
                    f"{node.start_mark.name}: duplicate key {key!r} in lines {lines[key]} and "
                    f"{line}; remove one of them"
                )
            lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """A number; octal and base-60 notations of YAML 1.1 are rejected."""
        text = self.construct_scalar(node)
        assert isinstance(text, str), f"a number is written as text, got {text!r}"
        octal = re.fullmatch(r"[-+]?0[0-7_]+", text)
        if octal or ":" in text:
            base = 8 if octal else 60
            raise ConfigError(
                f"{node.start_mark.name}: {text} in line {node.start_mark.line + 1} is a "
                f"base-{base} number in YAML; quote it if it is text, or write the number "
                "without colons and leading zeros"
            )
        integer = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _StrictLoader.construct_number)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file, without validating its keys.

    Raises:
        ConfigError: the file does not exist, is not a YAML mapping, or has a duplicate key.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a YAML file instead")
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist; correct the path")
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, _StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}; fix it there") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} contains a {type(content).__name__}, not a mapping; write `key: value` lines"
        )
    return content


def check_content(kind: type[T], content: Mapping[str, Any], origin: Path | str) -> T:
    """Validate content against a settings class.

    Raises:
        ConfigError: the content is invalid; one line per key, with its value and the remedy.
    """
    try:
        return kind.model_validate(dict(content))
    except ValidationError as error:
        lines = _lines(error.errors(), content, kind)
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from error


def _lines(
    errors: Iterable[ErrorDetails], content: Mapping[str, Any], kind: type[BaseModel]
) -> list[str]:
    # A value that matches no type of a union gives one error per type; keep the most specific.
    lines: dict[tuple[str | int, ...], str] = {}
    other_types: set[tuple[str | int, ...]] = set()
    for error in errors:
        keys = _keys(error["loc"], content, error["type"] in ("extra_forbidden", "missing"))
        place, is_type = tuple(keys), error["type"].endswith(("_type", "literal_error"))
        if place not in lines or (place in other_types and not is_type):
            lines[place] = _line(error, keys, kind, content)
            (other_types.add if is_type else other_types.discard)(place)
    return [
        line
        for keys, line in lines.items()
        if not any(len(other) > len(keys) and other[: len(keys)] == keys for other in lines)
    ]


def _line(error: ErrorDetails, keys: list[str | int], kind: type[BaseModel], content: Any) -> str:
    key = ".".join(map(str, keys)) or "the configuration"
    if error["type"] == "extra_forbidden":
        moved: Mapping[str, str] = getattr(kind, "moved_keys", {})
        if key in moved:
            place, _, _ = moved[key].partition(".")
            return f"`{key}` has moved to `{moved[key]}`; indent it below `{place}:`"
        known = _known_keys(keys[:-1], kind, content)
        near = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{key} is not a known key; {hint}known keys: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key} is missing; add it (see config/README.md)"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "union_tag_invalid" and error["ctx"]["discriminator"] == "'kind'":
        tag, tags = error["ctx"]["tag"], error["ctx"]["expected_tags"].replace("'", "")
        near = difflib.get_close_matches(tag, tags.split(", "), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{key}.kind = {tag!r} is not known; {hint}known kinds: {tags}"
    if error["type"] == "value_error" and isinstance(error["input"], dict | BaseModel):
        return f"{key}: {message}" if keys else message
    return f"{key} = {error['input']!r}: {described(error)}"


def described(error: ErrorDetails) -> str:
    """What is wrong with a value, and, for the usual mistakes, what to write instead."""
    message, value = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] == "missing":
        return "missing; add it"
    if error["type"] == "less_than_equal" and error["ctx"]["le"] == 1 and 2 <= value <= 100:
        return f"{message}; for {value:g} %, write {value / 100:g}"
    if error["type"] == "model_attributes_type" and isinstance(value, str):
        return f"Input should be a mapping; write {{kind: {value}}}, with its settings"
    if error["type"] in ("dict_type", "model_type", "model_attributes_type"):
        return "Input should be a mapping; write {name: value}"
    return message


def _keys(location: tuple[str | int, ...], content: Any, ends_in_key: bool) -> list[str | int]:
    """The keys of an error's location, without the type names that pydantic inserts."""
    keys: list[str | int] = []
    for index, part in enumerate(location):
        inside = isinstance(content, dict) and part in content
        inside = inside or (isinstance(content, list) and isinstance(part, int))
        if inside and (
            not isinstance(part, int) or isinstance(content, dict) or part < len(content)
        ):
            content = content[part]
            keys.append(part)
        elif ends_in_key and index == len(location) - 1 and isinstance(content, dict):
            keys.append(part)
    return keys


def _known_keys(keys: list[str | int], kind: type[BaseModel], content: Any) -> list[str]:
    """The keys that are allowed below the given keys: where `kind` is written, those of it."""
    models: list[Any] = [kind]
    for key in keys:
        content = content[key]
        models = [inner for model in models for inner in _inner(model, key)]
        named = content.get("kind") if isinstance(content, dict) else None
        models = [model for model in models if _has_kind(model, named)] or models
    names = [name for model in models for name in model.model_fields]
    return list(dict.fromkeys(names))


def _has_kind(model: type[BaseModel], named: Any) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and named in get_args(field.annotation)


def _inner(model: type[BaseModel], key: str | int) -> list[Any]:
    if isinstance(key, str) and key in model.model_fields:
        return list(_models(model.model_fields[key].annotation))
    # An index or a user-defined name (a task, a family): the item type is already in the list.
    return [model]


def _models(annotation: Any) -> Iterable[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)
    if isinstance(annotation, TypeAliasType):
        yield from _models(annotation.__value__)
