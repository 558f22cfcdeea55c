"""Which files of a hub repository are worth downloading, decided from its list of files."""

import re
from pathlib import PurePosixPath
from typing import Literal

from mergegrid.checkpoints.sources.source import HubOrigin

# In the order in which transformers looks for them, so that adapter_model.safetensors does not
# stand for a .bin-only model, nor shards or consolidated.safetensors come along as a second copy.
_WEIGHTS = tuple(
    re.compile(each)
    for each in (
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
_UNWANTED = re.compile(r".*\.py|\.gitattributes")


def patterns(
    files: list[str], kind: Literal["model", "dataset"], subfolder: str | None
) -> list[str]:
    """Names to download, out of all the names in a repository, sorted.

    A model is the flat folder of a checkpoint: the weights in one format, with the configuration
    and the tokenizer beside them. A data set is the subfolder (or all) without scripts. The
    repository's README and licence come along. A subfolder that names a file means that file.
    No weights, or nothing in the subfolder: an empty list.
    """
    terms = [name for name in files if _TERMS.fullmatch(name)]
    if subfolder in files:
        return sorted({subfolder, *terms})
    if kind == "dataset":
        below = f"{subfolder}/" if subfolder else ""
        inside = (name for name in files if name.startswith(below))
        chosen = [name for name in inside if not _UNWANTED.fullmatch(name)]
    else:
        home = PurePosixPath(subfolder or ".")
        chosen = _checkpoint([name for name in files if PurePosixPath(name).parent == home])
    return sorted({*chosen, *terms}) if chosen else []


def nothing(origin: HubOrigin, kind: str, files: list[str]) -> str:
    """Why `patterns` is empty for a repository, and what it has instead."""
    where = f"{origin.repo}:{origin.subfolder}" if origin.subfolder else origin.repo
    if kind == "dataset":
        tops = sorted({name.split("/")[0] for name in files})
        return f"there is nothing to fetch in {where}; at the top it has: {', '.join(tops[:12])}"
    paths = map(PurePosixPath, files)
    folders = sorted({str(p.parent) for p in paths if any(w.fullmatch(p.name) for w in _WEIGHTS)})
    advice = (
        f"it has them in: {', '.join(folders[:8])}; write hub:{origin.repo}:{folders[0]}"
        if folders
        else "name another repository or revision"
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
