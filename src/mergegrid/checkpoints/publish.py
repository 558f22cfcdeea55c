"""Publishing a folder: written beside its place, manifest last, then renamed into it.

The manifest, `manifest.json`, lists every other file with its SHA-256 and says what the folder
was made from:

    {"files": {"config.json": "0f3a...", "model.safetensors": "77b1..."}, "made_from": {...}}

A folder without a manifest is not a model.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergegrid.errors import CheckpointError
from mergegrid.provenance import digest, file_digest

MANIFEST = "manifest.json"


@contextmanager
def publish(folder: Path, made_from: dict[str, Any]) -> Iterator[Path]:
    """Give a folder to write into; on success it gets its manifest and its final name.

    On an error nothing appears at `folder`, and what was written is removed.
    """
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        files = {
            path.relative_to(draft).as_posix(): file_digest(path)
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        manifest = {"files": files, "made_from": made_from}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder.

    Raises:
        CheckpointError: the folder was never published, or one of its files is gone.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {MANIFEST}, so it is not complete; make it again")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in manifest["files"] if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} has lost {missing[0]}; make it again")
    return manifest


def published_digest(folder: Path) -> str:
    """SHA-256 that stands for the contents of a published folder."""
    return digest(read_manifest(folder)["files"])
