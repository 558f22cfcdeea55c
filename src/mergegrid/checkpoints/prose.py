"""Files of a model folder that no model computes with: cards, licences, recipes, training logs.

They are kept, and no result depends on them. All else does, files of unknown kinds included.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

_PROSE = (
    "*.gif",
    "*.jpeg",
    "*.jpg",
    "*.log",
    "*.md",
    "*.pdf",
    "*.png",
    "*.rst",
    "*.svg",
    "*.webp",
    "*.yaml",
    "*.yml",
    ".git*",
    "*_results.json",
    "copying*",
    "events.out.tfevents.*",
    "licence*",
    "license*",
    "manifest.json",
    "notice*",
    "readme*",
    "trainer_state.json",
    "training.json",
    "training_args.bin",
    "use_policy*",
)
_FOLDERS = {".eval_results", ".git", "logs", "runs"}


def is_prose(name: str) -> bool:
    """Whether a file, by its path in the folder of a model, is one that no model computes with."""
    *folders, last = name.lower().split("/")
    return not _FOLDERS.isdisjoint(folders) or any(fnmatchcase(last, each) for each in _PROSE)


def without_prose(files: Mapping[str, str]) -> dict[str, str]:
    """Digests by file name, of those files that a model computes with."""
    return {name: found for name, found in files.items() if not is_prose(name)}


def deciding_files(files: Mapping[str, str], kind: str) -> dict[str, str]:
    """Digests of the files that results depend on: of a `model`, all but prose; else all."""
    return without_prose(files) if kind == "model" else dict(files)
