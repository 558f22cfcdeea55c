"""Models by folder or hub id, wherever a file, a command or the API names one.

    models/llama                        a folder
    org/name[@revision][:subfolder]     a repository of the hub, if there is no such folder
    hub:org/name[@revision][:subfolder]
    hf://org/name[@revision][/subfolder]
    https://huggingface.co/org/name     always the hub

The library of the hub is imported only where a model is on the hub.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mergegrid.checkpoints.architectures import Config
from mergegrid.checkpoints.sources import cache as store
from mergegrid.checkpoints.sources.source import HubOrigin, parse_origin
from mergegrid.checkpoints.tensor_names import read_config
from mergegrid.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from mergegrid.checkpoints.sources.hub import HubFiles

Folder = str | Path
"""A folder or hub id; a `Path` is always a folder."""
_PART = r"[A-Za-z0-9][\w.-]*"
_ID = re.compile(rf"{_PART}/{_PART}(@[^:\s]+)?(:\S+)?")
_ADDRESS = re.compile(r"(hf|https?)://.*")


@dataclass(frozen=True)
class Models:
    """Models by name, on this machine or on the hub."""

    folders: dict[str, Path]
    """Their folders; those of models on the hub are where the cache has or will have them."""
    hub: "dict[str, HubFiles]" = field(default_factory=dict)
    """The models on the hub."""

    @property
    def base(self) -> Path:
        """Folder of the model named ""."""
        return self.folders[""]

    @property
    def experts(self) -> dict[str, Path]:
        """Folders of the other models by name."""
        return {name: folder for name, folder in self.folders.items() if name}

    @property
    def missing(self) -> "dict[str, HubFiles]":
        """The models on the hub that have to be downloaded, in whole or in part."""
        return {name: files for name, files in self.hub.items() if files.missing}

    def download(self) -> None:
        """Download the models on the hub as far as the cache lacks them, and verify checksums.

        Raises:
            SourceError: one cannot be downloaded.
        """
        if self.hub:
            from mergegrid.checkpoints.sources.hub import download

            for files in self.hub.values():
                download(files, store.root())


def locate_models(texts: Mapping[str, Folder], start: Path = Path()) -> Models:
    """Find models by folder or hub id; nothing but file lists is read from the hub.

    A folder wins over a hub id. A text that is neither stands for a folder that does not exist.

    Args:
        texts: folders or hub ids by the name of the model; "" is the base.
        start: folder in which relative paths start.

    Raises:
        ConfigError: an address is not one of a model.
        SourceError: a repository, revision or subfolder does not exist or is not accessible.
    """
    folders: dict[str, Path] = {}
    hub: dict[str, HubFiles] = {}
    for name, text in texts.items():
        path = start / Path(text).expanduser()
        origin = hub_origin(text) if isinstance(text, str) else None
        if origin is None or (_is_plain(str(text)) and path.exists()):
            folders[name] = path
            continue
        who = f"expert {name}: " if name else "the base: "
        hub[name] = _pin(origin, who if len(texts) > 1 else "", str(text), path)
        folders[name] = hub[name].path
    return Models(folders, hub)


def local_folder(text: Folder) -> Path:
    """The folder of one model, downloaded first if it is on the hub and not in the cache.

    Raises:
        ConfigError: see `locate_models`.
        SourceError: see `locate_models`; or the model cannot be downloaded.
    """
    models = locate_models({"": text})
    models.download()
    return models.folders[""]


def config_of(text: Folder, start: Path = Path()) -> Config:
    """The config of a model by folder or hub id, of which nothing else is downloaded.

    Args:
        text: folder or hub id.
        start: folder in which relative paths start.

    Returns:
        The content of `config.json`; nothing if there is no such folder or file.

    Raises:
        ConfigError: see `locate_models`.
        SourceError: see `locate_models`; or the config cannot be downloaded.
    """
    models = locate_models({"": text}, start)
    for files in models.hub.values():
        from mergegrid.checkpoints.sources.hub import bring
        from mergegrid.checkpoints.sources.hub_errors import explained

        name = (PurePosixPath(files.origin.subfolder or "") / "config.json").as_posix()
        with explained(files.origin, files.kind):
            bring(files, [name] if name in files.sizes else [])
    return read_config(models.base)


def hub_origin(text: str) -> HubOrigin | None:
    """The repository that a text names if it is no folder, or None if it can only be a path.

    Raises:
        ConfigError: an address is not one of a model, or `hub:` is not followed by an id.
    """
    if _ADDRESS.fullmatch(text):
        return _of_address(text)
    if text.startswith("hub:") or _ID.fullmatch(text):
        try:
            origin = parse_origin(f"hub:{text.removeprefix('hub:')}")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        assert isinstance(origin, HubOrigin)
        return origin
    return None


def model_label(text: Folder) -> str:
    """The last name in a folder or hub id: `llama` in `models/llama` and in `org/llama@v1`."""
    origin = hub_origin(text) if isinstance(text, str) else None
    if origin is None:
        return Path(text).name
    return (origin.subfolder or origin.repo).rpartition("/")[2]


def _is_plain(text: str) -> bool:
    return not (text.startswith("hub:") or _ADDRESS.fullmatch(text))


def _of_address(text: str) -> HubOrigin:
    from huggingface_hub import constants, parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        uri = parse_hf_uri(text, endpoint=constants.ENDPOINT)
    except HfUriError as error:
        raise ConfigError(f"{text}: {error}; write org/name[@revision][:subfolder]") from error
    if uri.type != "model":
        raise ConfigError(f"{text} is a {uri.type}, not a model; write org/name of a model")
    return HubOrigin(uri.id, uri.revision, uri.path_in_repo or None)


def _pin(origin: HubOrigin, who: str, text: str, path: Path) -> "HubFiles":
    from mergegrid.checkpoints.sources.hub import pin

    try:
        files = pin(origin, "model")
        if origin.subfolder in files.sizes:
            folder = origin.subfolder.rpartition("/")[0] or None
            where = replace(origin, subfolder=folder)
            raise SourceError(f"{origin} is a file; name the folder of the model: {where}")
    except SourceError as error:
        if not _is_plain(text):
            raise SourceError(f"{who}{error}") from error
        siblings = (
            [sibling.name for sibling in path.parent.glob("*")] if path.parent.is_dir() else []
        )
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean {path.with_name(near[0])}? As" if near else ", and as"
        raise SourceError(
            f"{who}there is no folder {path.resolve()}{hint} an id of the hub: {error}"
        ) from error
    return files
