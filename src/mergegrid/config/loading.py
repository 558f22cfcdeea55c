"""Reading a configuration, with errors that name the key, the value and what would do."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mergegrid.config.source import PathOrigin, SourceConfig
from mergegrid.config.study import Study
from mergegrid.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice: the first value would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise ConfigError(
                    f"{node.start_mark.name}: key {key!r} is written twice, in lines {seen[key]} "
                    f"and {line}; keep one of them"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_study(path: Path) -> Study:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file is missing, is not YAML, or asks for something that cannot be done.
    """
    return check_study(read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file as it stands, refusing keys written twice."""
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}; see config/ for examples")
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}; write `key: value` lines")
    return content


def check_study(content: Mapping[str, Any], origin: Path | str) -> Study:
    """Check the content of a configuration; `origin` says in errors where it comes from."""
    try:
        return Study.model_validate(dict(content))
    except ValidationError as error:
        lines = _lines(error.errors(), content)
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from error


def check_paths(study: Study) -> None:
    """Check that the local files and folders which a study names are there.

    Raises:
        ConfigError: one is not.
    """
    named: dict[str, SourceConfig | None] = {}
    for name, task in study.tasks.items():
        for split in ("train", "validation", "test"):
            named[f"tasks.{name}.{split}"] = getattr(task, split)
    for name, family in study.families.items():
        named[f"families.{name}.base"] = family.base
        for expert, spec in family.experts.items():
            named[f"families.{name}.experts.{expert}"] = spec.source
    for key, config in named.items():
        origin = config.origin if config else None
        if isinstance(origin, PathOrigin) and not Path(origin.path).exists():
            raise ConfigError(
                f"{key}.source = {f'path:{origin.path}'!r}: there is no "
                f"{Path(origin.path).resolve()}; "
                "correct the path (it is relative to where the run starts)"
            )


def _lines(errors: Iterable[ErrorDetails], content: Mapping[str, Any]) -> list[str]:
    found: dict[tuple[str | int, ...], str] = {}
    for error in errors:
        keys = _keys(error["loc"], content)
        found.setdefault(tuple(keys), _line(error, keys))
    # A value that fits none of several types fails once for each type: the innermost says it best.
    return [
        line
        for keys, line in found.items()
        if not any(len(other) > len(keys) and other[: len(keys)] == keys for other in found)
    ]


def _line(error: ErrorDetails, keys: list[str | int]) -> str:
    key = ".".join(map(str, keys)) or "the configuration"
    if error["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{key} is not a known key; {hint}known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key} is missing; add it (see config/README.md)"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error["input"], dict | Study):
        return f"{key}: {message}" if keys else message
    return f"{key} = {error['input']!r}: {message}"


def _keys(location: tuple[str | int, ...], content: Any) -> list[str | int]:
    """The location without the names of types that pydantic weaves into it."""
    keys: list[str | int] = []
    for index, part in enumerate(location):
        inside = isinstance(content, dict) and part in content
        inside = inside or (isinstance(content, list) and isinstance(part, int))
        if inside and (
            not isinstance(part, int) or isinstance(content, dict) or part < len(content)
        ):
            content = content[part]
            keys.append(part)
        elif index == len(location) - 1 and isinstance(content, dict):
            keys.append(part)
    return keys


def _known_keys(keys: list[str | int]) -> list[str]:
    """The keys that the configuration knows at a place."""
    models: list[Any] = [Study]
    for key in keys:
        models = [inner for model in models for inner in _inner(model, key)]
    names = [name for model in models for name in model.model_fields]
    return list(dict.fromkeys(names))


def _inner(model: type[BaseModel], key: str | int) -> list[Any]:
    if isinstance(key, str) and key in model.model_fields:
        return list(_models(model.model_fields[key].annotation))
    # An index or a free name (a task, a family): the type of the items was already collected.
    return [model]


def _models(annotation: Any) -> Iterable[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)
