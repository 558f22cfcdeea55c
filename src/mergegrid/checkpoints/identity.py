"""Files that identify a model: the ones its outputs depend on.

Model cards, licenses, recipes, images and training logs are informational. They are kept, but no
result depends on them. Every other file counts, including files of unknown kinds.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

_INFORMATIONAL_FILES = (
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
_INFORMATIONAL_FOLDERS = {".eval_results", ".git", "logs", "runs"}


def is_informational(name: str) -> bool:
    """Whether no model output depends on a file, given by its path in the folder."""
    *folders, file = name.lower().split("/")
    return not _INFORMATIONAL_FOLDERS.isdisjoint(folders) or any(
        fnmatchcase(file, pattern) for pattern in _INFORMATIONAL_FILES
    )


def identity_files(
    files: Mapping[str, str], kind: Literal["model", "dataset"] = "model"
) -> dict[str, str]:
    """The digests, by file name, that identify a model or a data set.

    All files identify a data set; informational files do not identify a model.
    """
    return {
        name: digest
        for name, digest in files.items()
        if kind == "dataset" or not is_informational(name)
    }
