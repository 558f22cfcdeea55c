"""A YAML document with the lines of its keys, for errors that say where."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergegrid.errors import ConfigError
from mergegrid.yaml_files import read_yaml

Keys = tuple[str | int, ...]
"""The place of a value: `("models", 1, "parameters", "weight")`."""


@dataclass(frozen=True)
class Document:
    """The content of a YAML file, and where in the file it stands."""

    origin: Path
    content: dict[str, Any]
    lines: dict[Keys, int]
    """Line numbers, from 1, of keys and list items."""

    def error(self, keys: Keys, message: str) -> ConfigError:
        """An error that names the file, the line and the key.

        Example:
            config.yml, line 7: models[1].density stands outside `parameters`
        """
        line = next(
            (self.lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self.lines), 1
        )
        return ConfigError(f"{self.origin}, line {line}: {dotted(keys)}{message}")


def dotted(keys: Keys) -> str:
    """Keys as text: `models[1].parameters.weight`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def read_document(path: Path) -> Document:
    """Read a YAML file of one document.

    Raises:
        ConfigError: the file does not exist, is not a YAML mapping, or has a duplicate key.
    """
    content = read_yaml(path)
    with path.open(encoding="utf-8") as file:
        root = yaml.compose(file, yaml.SafeLoader)
    lines: dict[Keys, int] = {}
    _collect(root, (), lines, set())
    return Document(path, content, lines)


def second_document(path: Path) -> int | None:
    """The line of the second YAML document of a file; None if there is one, or none can be read."""
    try:
        with path.open(encoding="utf-8") as file:
            nodes = list(yaml.compose_all(file, yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return None
    lines = [node.start_mark.line + 1 for node in nodes if node is not None]
    return lines[1] if len(lines) > 1 else None


def _collect(node: yaml.Node | None, keys: Keys, lines: dict[Keys, int], done: set[int]) -> None:
    # An anchor may stand in many places, even inside itself; its first place counts.
    if node is None or id(node) in done:
        return
    done.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            inner = (*keys, key_node.value)
            lines[inner] = key_node.start_mark.line + 1
            _collect(value, inner, lines, done)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*keys, index] = item.start_mark.line + 1
            _collect(item, (*keys, index), lines, done)
