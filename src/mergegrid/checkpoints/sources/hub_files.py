"""Selection of the files to download from a hub repository."""

import re
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

    A model is a flat checkpoint folder: weights in one format, with config and tokenizer. A data
    set is the subfolder, or the whole repository, without scripts. The repository's README and
    license are included. `subfolder` may also be a single file. The list is empty if there are no
    weights, or nothing in the subfolder.
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
    return sorted({*chosen, *terms}) if chosen else []


def nothing(origin: HubOrigin, kind: str, files: list[str]) -> str:
    """Error message for a repository in which `patterns` selects no files."""
    where = f"{origin.repo}:{origin.subfolder}" if origin.subfolder else origin.repo
    if kind == "dataset":
        tops = sorted({name.split("/")[0] for name in files})
        return f"{where} has no files; the repository contains: {', '.join(tops[:12])}"
    paths = map(PurePosixPath, files)
    folders = sorted({str(p.parent) for p in paths if any(w.fullmatch(p.name) for w in _WEIGHTS)})
    advice = (
        f"there are some in: {', '.join(folders[:8])}; write hub:{origin.repo}:{folders[0]}"
        if folders
        else "specify another repository or revision"
    )
    return f"{where} has no *.safetensors and no pytorch_model*.bin; {advice}"


def _checkpoint(files: list[str]) -> list[str]:
    bases = {name: PurePosixPath(name).name for name in files}
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
