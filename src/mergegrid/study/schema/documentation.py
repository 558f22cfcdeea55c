"""The JSON schema and the reference of the configuration, generated from its models."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mergegrid.recipes.merge_file import MergeFile
from mergegrid.study.schema.study import Study

#: What users write, by the file with its JSON schema.
SCHEMAS: dict[str, type[BaseModel]] = {
    "config.schema.json": Study,
    "merge.schema.json": MergeFile,
}


def schema_text(model: type[BaseModel]) -> str:
    """The JSON schema that editors and the workflow catalogue read."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(),
    }
    return json.dumps(schema, indent=2) + "\n"


def reference_text() -> str:
    """Every key of a study in Markdown, one table per section."""
    schema = _without_named_values(Study.model_json_schema())
    sections = [_section("Top level", schema)]
    sections += [_section(name, part) for name, part in _in_order(schema).items()]
    return "\n".join(sections)


def merge_reference_text() -> str:
    """Every key of a merge file that is not among those of a study, one table per section."""
    schema = _without_named_values(MergeFile.model_json_schema())
    known = _in_order(Study.model_json_schema())
    sections = [_section("Merge file", schema)]
    sections += [
        _section(name, part) for name, part in _in_order(schema).items() if name not in known
    ]
    return "\n".join(sections)


def write_documentation(folder: Path) -> None:
    """Bring the schemas and the references in `config/README.md` up to date."""
    for name, model in SCHEMAS.items():
        (folder / name).write_text(schema_text(model), encoding="utf-8")
    readme = folder / "README.md"
    readme.write_text(with_references(readme.read_text(encoding="utf-8")), encoding="utf-8")


def with_references(readme: str) -> str:
    """A README whose references, each between its two markers, are the current ones."""
    for name, text in (
        ("reference", reference_text()),
        ("merge reference", merge_reference_text()),
    ):
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = readme.partition(begin)
        _, _, after = rest.partition(end)
        readme = f"{before}{begin}\n{text}\n{end}{after}"
    return readme


def _without_named_values(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the definitions of values, which have no section, where they are used."""

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(inner) for inner in part]
        if not isinstance(part, dict):
            return part
        name = str(part.get("$ref", "")).split("/")[-1]
        if name and "properties" not in schema["$defs"][name]:
            part = {**schema["$defs"][name], **part}
            del part["$ref"]
        return {key: inlined(inner) for key, inner in part.items()}

    return {key: inlined(part) for key, part in schema.items()}


def _in_order(schema: dict[str, Any]) -> dict[str, Any]:
    """The sections in the order in which keys first lead to them."""
    definitions = schema.get("$defs", {})
    sections: dict[str, Any] = {}
    pending = _references(schema["properties"])
    while pending:
        name = pending.pop(0)
        if name not in sections:
            sections[name] = definitions[name]
            pending = _references(definitions[name]) + pending
    return sections


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        here = [part["$ref"].split("/")[-1]] if "$ref" in part else []
        return here + [name for key, inner in part.items() if key != "discriminator"
                       for name in _references(inner)]  # fmt: skip
    if isinstance(part, list):
        return [name for inner in part for name in _references(inner)]
    return []


def _section(name: str, part: dict[str, Any]) -> str:
    required = part.get("required", [])
    lines = [f"### {name}", "", _one_line(part.get("description", "")), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in part.get("properties", {}).items():
        default = "**required**" if key in required else _default(value)
        meaning = _one_line(value.get("description", ""))
        lines.append(f"| `{key}` | {_type(value)} | {default} | {meaning} |")
    return "\n".join([*lines, ""])


def _default(value: dict[str, Any]) -> str:
    if value.get("const") is not None:
        return ""
    default = _without_unset(value.get("default"))
    # What a section defaults to stands in its own table.
    return "" if default in (None, {}) or "$ref" in value else f"`{json.dumps(default)}`"


def _without_unset(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_unset(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_unset(item) for item in value]
    return value


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].split("/")[-1]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " \\| ".join(f"`{item}`" for item in value["enum"])
    for several in ("anyOf", "oneOf"):
        if several in value:
            kinds = [_type(part) for part in value[several] if part.get("type") != "null"]
            return " \\| ".join(dict.fromkeys(kinds))
    if value.get("type") == "array":
        # A pair has its types one by one.
        return f"list of {_type(value.get('items') or value['prefixItems'][0])}"
    if value.get("type") == "object":
        named = value.get("additionalProperties") or {}
        for part in (value.get("patternProperties") or {"": named}).values():
            if isinstance(part, dict) and part:
                return f"name: {_type(part)}"
    return _bounded(value)


def _bounded(value: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {value[key]}" for key, sign in signs.items() if key in value]
    return " ".join([str(value.get("type", "any")), *bounds])


def _one_line(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
