"""Files of model statistics: tensors computed from an expert, under its tensor names."""

import json
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.folder import FolderCheckpoint
from mergegrid.checkpoints.safetensors_files import locate_in_file
from mergegrid.errors import CheckpointError

#: Key of the statistics in the metadata of a file.
STATISTICS = "statistics"


class Statistics(FolderCheckpoint):
    """The tensors of a file of model statistics, and its metadata.

    Files that mergegrid writes have four entries in one string, because safetensors does not keep
    the order of several:

        {"__metadata__": {"statistics": "{\"arithmetic\": \"exact\", \"examples\": 1024,
         \"expert\": \"5d0c...\", \"kind\": \"fisher\"}"}, ...}
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent, locate_in_file(path))
        self.path, self.metadata = path, _metadata(path)


def open_statistics(path: Path) -> Statistics:
    """Open a statistics file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"statistics file {path} does not exist; correct the path")
    return Statistics(path)


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata in the header of a file that is known to be valid; often empty."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    text = (header.get("__metadata__") or {}).get(STATISTICS, "{}")
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} has invalid metadata {text!r}; recompute the statistics")
    return metadata
