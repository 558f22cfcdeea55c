"""Selection of the files to download from a hub repository."""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Literal

from mergegrid.checkpoints.sources.source import HubOrigin

# In the order of transformers, so that adapter_model.safetensors is not taken for the weights of a
# .bin-only model, and neither shards nor consolidated.safetensors are downloaded as a second copy.
_WEIGHTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"model\.safetensors",
        r"model-\d+-of-\d+\.safetensors",
        r"pytorch_model\.bin",
        r"pytorch_model-\d+-of-\d+\.bin",
        r".*\.safetensors",
        r"pytorch_model.*\.bin",
    )
)
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
"""Weights of a LoRA adapter, in the order of PEFT."""
_OF_TRAINING = re.compile(r"trainer_state\.json|.*_results\.json")
_BELOW = re.compile(
    r"additional_chat_templates/[^/]+\.jinja|\d+_\w+/([^/]+\.json|model\.safetensors)"
)
"""Files of a model in folders: named chat templates; modules of a sentence encoder."""
_BESIDE_WEIGHTS = re.compile(r".*\.(json|model|txt|jinja)")
_INDEX = re.compile(r".*\.index\.json")
_TERMS = re.compile(r"README\.md|LICEN[SC]E.*", re.IGNORECASE)
_IGNORED = re.compile(r".*\.py|\.gitattributes")


def is_weights(name: str) -> bool:
    """Whether a file of a model, by its path, has weights."""
    return name.endswith((".safetensors", ".bin"))


def patterns(
    files: list[str], kind: Literal["model", "dataset"], subfolder: str | None
) -> list[str]:
    """The names to download, out of all names in a repository, sorted.

    A model is a checkpoint folder: weights in one format, with config and tokenizer; or the adapter
    in it if it has no weights of a whole model. A data set is the subfolder, or the whole
    repository, without scripts. The repository's README and license are included. `subfolder` may
    also be a single file. The list is empty if there are no weights, or nothing in the subfolder.
    """
    terms = [name for name in files if _TERMS.fullmatch(name)]
    if subfolder in files:
        return sorted({subfolder, *terms})
    if kind == "dataset":
        below = f"{subfolder}/" if subfolder else ""
        inside = (name for name in files if name.startswith(below))
        chosen = [name for name in inside if not _IGNORED.fullmatch(name)]
    else:
        home = PurePosixPath(subfolder or ".")
        chosen = _checkpoint([name for name in files if PurePosixPath(name).parent == home])
        if chosen:
            inside = (name for name in files if PurePosixPath(name).is_relative_to(home))
            chosen += [
                name
                for name in inside
                if _BELOW.fullmatch(PurePosixPath(name).relative_to(home).as_posix())
            ]
    return sorted({*chosen, *terms}) if chosen else []


def nothing(origin: HubOrigin, kind: str, files: list[str]) -> str:
    """Error message for a repository in which `patterns` selects no files."""
    where = f"{origin.repo}:{origin.subfolder}" if origin.subfolder else origin.repo
    if kind == "dataset":
        tops = sorted({name.split("/")[0] for name in files})
        return f"{where} has no files; the repository contains: {', '.join(tops[:12])}"
    paths = map(PurePosixPath, files)
    homes = {path.parent for path in paths if any(w.fullmatch(path.name) for w in _WEIGHTS)}
    folders = [None if str(home) == "." else str(home) for home in sorted(homes)]
    sources = [str(HubOrigin(origin.repo, origin.revision, folder)) for folder in folders]
    advice = (
        f"there are some in: {', '.join(sources[:8])}"
        if sources
        else "specify another repository or revision"
    )
    return f"{where} has no *.safetensors, no pytorch_model*.bin and no adapter_model.bin; {advice}"


def _checkpoint(files: list[str]) -> list[str]:
    bases = {name: PurePosixPath(name).name for name in files}
    if "adapter_config.json" in bases.values() and not _is_whole(list(bases.values())):
        return _adapter(bases)
    for pattern in _WEIGHTS:
        weights = [name for name in files if pattern.fullmatch(bases[name])]
        if weights:
            break
    else:
        return []
    single = bases[weights[0]] in ("model.safetensors", "pytorch_model.bin")
    ending = PurePosixPath(weights[0]).suffix
    beside = [
        name
        for name, base in bases.items()
        if _TERMS.fullmatch(base)
        or (_INDEX.fullmatch(base) and base.endswith(f"{ending}.index.json") and not single)
        or (_BESIDE_WEIGHTS.fullmatch(base) and not _INDEX.fullmatch(base))
    ]
    return weights + beside


def _is_whole(names: Collection[str]) -> bool:
    """Whether weights of a whole model are among files."""
    return any(pattern.fullmatch(name) for pattern in _WEIGHTS[:4] for name in names)


def _adapter(bases: Mapping[str, str]) -> list[str]:
    """The files of an adapter, out of those in its folder: base names by name."""
    weights = [name for base in _ADAPTER for name in bases if bases[name] == base][:1]
    beside = [
        name
        for name, base in bases.items()
        if _TERMS.fullmatch(base)
        or (_BESIDE_WEIGHTS.fullmatch(base) and not _OF_TRAINING.fullmatch(base))
    ]
    return weights + beside if weights else []
