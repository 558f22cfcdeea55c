"""Mergekit files on disk: recognized by their keys, and read as merge files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergegrid.checkpoints.architectures import text_config
from mergegrid.checkpoints.sources.models import config_of
from mergegrid.errors import ConfigError
from mergegrid.hashing import file_digest
from mergegrid.recipes.merge_file import MergeFile
from mergegrid.recipes.mergekit.document import read_document, second_document
from mergegrid.recipes.mergekit.reading import TOP_KEYS
from mergegrid.recipes.mergekit.references import ModelReference
from mergegrid.recipes.mergekit.translation import translate
from mergegrid.yaml_files import check_content, read_yaml

#: Keys that only mergekit files have; `gate_mode` is of mergekit-moe.
_MERGEKIT_KEYS = {*TOP_KEYS, "gate_mode"} - set(MergeFile.model_fields)
#: Of these, those without which a file is taken for a merge file with a wrong key.
_TELLING_KEYS = {"merge_method", "base_model", "models", "slices", "modules", "gate_mode"}


@dataclass(frozen=True)
class Imported:
    """A mergekit file as a merge file."""

    merge_file: MergeFile
    notes: tuple[str, ...]
    """What was chosen, and what mergekit does otherwise: a line each."""

    def text(self) -> str:
        """The merge file as YAML, with the notes as comments."""
        content = self.merge_file.model_dump(mode="json", exclude_unset=True)
        comments = "".join(f"# {note}\n" for note in self.notes)
        return comments + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def is_mergekit(path: Path) -> bool:
    """Whether a file is a configuration of mergekit.

    Raises:
        ConfigError: it is missing, is not YAML, or has keys of mergekit and of merge files.
    """
    if line := second_document(path):
        raise ConfigError(
            f"{path}, line {line}: a second YAML document, as for mergekit-multi; put each into a "
            "file of its own, and merge them in their order"
        )
    content = read_yaml(path)
    telling = [key for key in content if key in _TELLING_KEYS - set(MergeFile.model_fields)]
    if not telling:
        return False
    foreign = [key for key in content if key in MergeFile.model_fields and key not in TOP_KEYS]
    if foreign and not _is_mixture_of_experts(content):
        document = read_document(path)
        first, second = document.lines[telling[0],], document.lines[foreign[0],]
        raise ConfigError(
            f"{path}: {telling[0]} (line {first}) is a key of mergekit and {foreign[0]} (line "
            f"{second}) one of mergegrid; write the file in one of both languages"
        )
    return True


def _is_mixture_of_experts(content: Mapping[str, Any]) -> bool:
    return "gate_mode" in content or isinstance(content.get("experts"), list)


def import_file(path: Path, ignore_unused: bool = False) -> Imported:
    """Read a mergekit file as a merge file.

    Args:
        path: the file. Relative paths in it start at its folder or, as in mergekit, at the
            current folder.
        ignore_unused: note parameters that the method does not use, instead of refusing them.

    Raises:
        ConfigError: the file has an unknown or misplaced key or a wrong value, or mergegrid cannot
            compute the same.
        SourceError: the config of a model on the hub, whose layers must be counted, is not
            accessible.
    """

    def layer_count(model: ModelReference) -> int | None:
        located = _located(path, str(model.whole))
        return text_config(config_of(located, path.parent)).get("num_hidden_layers")

    translation = translate(read_document(path), layer_count, ignore_unused)
    content = dict(translation.merge_file)
    content["base"] = _located(path, content["base"])
    content["experts"] = {name: _located(path, model) for name, model in content["experts"].items()}
    origin = f"from {path.name}, a file of mergekit with SHA-256 {file_digest(path)}"
    return Imported(
        check_content(MergeFile, content, path),
        (origin, *translation.notes, *translation.differences),
    )


def _located(path: Path, model: str) -> str:
    """A model as a merge file beside the mergekit file would name it."""
    folder = _folder(path, model)
    return model if folder == path.parent / Path(model).expanduser() else str(folder)


def _folder(path: Path, model: str) -> Path:
    """The folder of a model: below the file, or else below the current folder.

    Raises:
        ConfigError: there are two different ones.
    """
    beside, here = path.parent / Path(model).expanduser(), Path(model).expanduser().absolute()
    if not here.is_dir():
        return beside
    if beside.is_dir() and not beside.samefile(here):
        raise ConfigError(
            f"{path}: {model} is a folder beside the file and another one in the current folder, "
            "which mergekit would take; write an absolute path"
        )
    return beside if beside.is_dir() else here
