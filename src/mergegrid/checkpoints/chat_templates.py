"""Chat templates of a model folder, the named ones included.

`chat_template.jinja` is the default template, and `additional_chat_templates/NAME.jinja` are the
others. Before, `tokenizer_config.json` had a template, or a list of names and templates, and
processors had `chat_template.json`; the files count where both exist, as in transformers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.tokenizers import TOKENIZER_CONFIG
from mergegrid.errors import CheckpointError

DEFAULT = "default"
_FILE, _OLD_FILE, _FOLDER = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
_KEY = "chat_template"


def read_templates(folder: Path) -> dict[str, str]:
    """Chat templates by name; the main one is `default`.

    Raises:
        CheckpointError: a file is damaged.
    """
    templates: dict[str, str] = {}
    for file in (_OLD_FILE, TOKENIZER_CONFIG):
        if (folder / file).is_file():
            templates |= _named(read_json(folder / file).get(_KEY), folder / file)
    files = {path.stem: path for path in sorted((folder / _FOLDER).glob("*.jinja"))}
    if (folder / _FILE).is_file():
        files[DEFAULT] = folder / _FILE
    for name, path in files.items():
        try:
            templates[name] = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}; download it again") from error
    return templates


def without_template(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer config without chat templates."""
    return {key: value for key, value in config.items() if key != _KEY}


def replace_templates(folder: Path, templates: Mapping[str, str]) -> None:
    """Write chat templates into a folder, whose tokenizer config must have none."""
    (folder / _OLD_FILE).unlink(missing_ok=True)
    for path in [folder / _FILE, *(folder / _FOLDER).glob("*.jinja")]:
        path.unlink(missing_ok=True)
    for name, text in templates.items():
        path = folder / _FILE if name == DEFAULT else folder / _FOLDER / f"{name}.jinja"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if (folder / _FOLDER).is_dir() and not any((folder / _FOLDER).iterdir()):
        (folder / _FOLDER).rmdir()


def _named(templates: Any, path: Path) -> dict[str, str]:
    """Templates by name of a `chat_template` key: a text, or a list of names and templates."""
    if templates is None:
        return {}
    if isinstance(templates, str):
        return {DEFAULT: templates}
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in templates}
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} has a {_KEY} that is neither a text nor a list of names and templates; "
            "download it again"
        ) from error
