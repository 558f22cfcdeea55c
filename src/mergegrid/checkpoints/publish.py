"""Publishing a folder: written beside its destination, manifest last, then renamed.

The manifest, `manifest.json`, lists the SHA-256 of every file and records what the folder was made
from. For weights that were streamed, it lists the size and header digest of each file and the
digest of each tensor instead:

    {"files": {"config.json": "0f3a..."},
     "weights": {"files": {"model.safetensors": {"bytes": 2200119864, "header": "93c5..."}},
                 "tensors": {"lm_head.weight": "77b1..."}},
     "made_from": {...}}

A folder without a manifest is not a model. Syncing to disk, which protects against power failures,
is done by the jobs of the workflow, not here.

Before a job reads a folder, `check_published` compares its files with the manifest: for streamed
weights, only sizes and headers. A merge reads all weights and compares tensor digests. Other
readers, generation and fine-tuning, do not detect bits that changed inside streamed weights.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.digests import checkpoint_digest
from mergegrid.checkpoints.identity import identity_files, is_informational
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.safetensors_files import header_digest
from mergegrid.errors import CheckpointError, ConfigError, DamagedError
from mergegrid.hashing import digest, file_digest
from mergegrid.stages import Libraries, union_of_versions

MANIFEST = "manifest.json"
_LASTING_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


@dataclass
class Draft:
    """A folder that is being written."""

    path: Path
    made_from: dict[str, Any]
    weight_files: Mapping[str, Any] = field(default_factory=dict)
    """Size and header digest of the files whose tensors were digested while being written."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Digests of the tensors in these files."""

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def manifest(self) -> dict[str, Any]:
        """The manifest of what the folder contains now."""
        files = {
            path.relative_to(self.path).as_posix(): path
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }
        manifest: dict[str, Any] = {
            "files": {
                name: file_digest(path)
                for name, path in files.items()
                if name not in self.weight_files
            },
            "made_from": self.made_from,
        }
        if self.weight_files:
            manifest["weights"] = {
                "files": dict(self.weight_files),
                "tensors": dict(self.tensors),
            }
        return manifest


@contextmanager
def publish(folder: Path, made_from: dict[str, Any]) -> Iterator[Draft]:
    """Yield a draft to write to; on success it gets its manifest and its final name.

    On an error nothing appears at `folder`, and the draft is removed. Drafts of killed processes
    are removed by the next one.

    Raises:
        CheckpointError: `folder` exists and was not published by mergegrid, another process is
            writing it, or the disk fails or is full.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    check_destination(folder)
    draft = folder.with_name(f".{folder.name}.draft")
    previous = folder.with_name(f".{folder.name}.previous")
    with _locked(folder):
        try:
            draft.mkdir(exist_ok=True)
            _recover(previous, folder)
            _empty(draft)
            written = Draft(draft, made_from)
            yield written
            text = json.dumps(written.manifest(), indent=2, sort_keys=True) + "\n"
            (draft / MANIFEST).write_text(text, encoding="utf-8")
            # Two renames, so that whatever is at `folder` is complete at all times.
            if folder.exists():
                folder.replace(previous)
            draft.replace(folder)
            shutil.rmtree(previous, ignore_errors=True)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            _recover(previous, folder)
            if isinstance(error, OSError):
                raise _not_writable(folder, error) from error
            raise


def check_destination(folder: Path) -> None:
    """Check that a folder can be published here without losing anything.

    Raises:
        CheckpointError: the destination cannot be replaced, or contains files that mergegrid did
            not publish.
    """
    if not os.path.lexists(folder):
        return
    if os.path.ismount(folder):
        raise CheckpointError(
            f"{folder} is a mount point and cannot be replaced; choose a folder inside it"
        )
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} exists and is not a directory; choose another output path or move it"
        )
    if not any(folder.iterdir()):
        return
    files = {
        path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()
    }
    foreign = sorted(files - _published_files(folder))
    if foreign:
        raise CheckpointError(
            f"{folder} already exists and contains {foreign[0]}, which mergegrid did not publish; "
            "choose another output path or move it"
        )


def leftover_bytes(folder: Path) -> int:
    """Bytes of a draft that a killed process left here, which the next one replaces."""
    draft = folder.with_name(f".{folder.name}.draft")
    return sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())


def check_place(folder: Path, models: Iterable[Path]) -> None:
    """Check that a folder can be published here, and apart from the models it is made from.

    Raises:
        CheckpointError: see `check_destination`.
        ConfigError: a model and the folder contain one another, or nobody may write here.
    """
    check_destination(folder)
    for model in models:
        inside = folder.resolve().is_relative_to(model.resolve())
        around = model.resolve().is_relative_to(folder.resolve())
        if inside or around:
            raise ConfigError(
                f"the output {folder} and the model {model} contain one another; "
                "choose another output path"
            )
    parent = next(path for path in folder.resolve().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"{parent} is not writable; choose another output path")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder.

    Raises:
        CheckpointError: it cannot be read at the moment.
        DamagedError: the folder was never published, its manifest is damaged, or a file is missing.
    """
    path = folder / MANIFEST
    with _reading(folder):
        if not _is_file(path):
            raise DamagedError(
                folder, f"{folder} has no {MANIFEST}, so it is incomplete; rebuild it"
            )
        try:
            manifest = read_json(path)
        except CheckpointError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from error
            raise DamagedError(folder, str(error)) from error
        listed = _listed_files(manifest)
        if listed is None:
            raise DamagedError(
                folder, f"{path} is damaged or was not written by mergegrid; rebuild the folder"
            )
        for name in sorted(listed):
            if not is_informational(name) and not _is_file(folder / name):
                raise DamagedError(folder, f"{folder} lacks {name}; rebuild it")
    return manifest


def check_published(folder: Path) -> None:
    """Compare the files of a published folder with its manifest.

    Files are read and digested; for streamed weights, sizes and headers are compared. Model cards
    and other informational files may have been edited or removed.

    Raises:
        CheckpointError: a file cannot be read at the moment.
        DamagedError: a file has changed, is missing, or is on a damaged part of the disk.
    """
    manifest = read_manifest(folder)
    weights = manifest.get("weights", {}).get("files", {})
    with _reading(folder):
        for name, expected in identity_files(manifest["files"]).items():
            if file_digest(folder / name) != expected:
                raise _changed(folder, str(folder / name))
        for name, expected in weights.items():
            path = folder / name
            # The size first, because a truncated header cannot be read.
            if (
                path.stat().st_size != expected["bytes"]
                or header_digest(path) != expected["header"]
            ):
                raise _changed(folder, f"the size or the header of {path}")


def check_tensors(folder: Path, tensors: Mapping[str, str]) -> None:
    """Compare tensor digests with the manifest of their folder.

    Tensors without a digest in the manifest pass, as do folders that were never published.

    Raises:
        DamagedError: a tensor differs from what was published.
    """
    if not (folder / MANIFEST).is_file():
        return
    published = read_manifest(folder).get("weights", {}).get("tensors", {})
    changed = sorted(
        name for name in tensors if published.get(name, tensors[name]) != tensors[name]
    )
    if changed:
        raise _changed(folder, f"{changed[0]} in {folder}")


def published_digest(folder: Path) -> str:
    """SHA-256 of what identifies a published model: weights, tokenizer and config."""
    manifest = read_manifest(folder)
    files = identity_files(manifest["files"])
    if "weights" not in manifest:
        return digest(files)
    weights = checkpoint_digest(manifest["weights"]["tensors"])
    return digest({"files": files, "weights": weights})


def recorded_libraries(folder: Path) -> Libraries:
    """Libraries that a folder was trained or computed with, as its manifest records them.

    Empty for a model that was not trained here or was never published.
    """
    if not (folder / MANIFEST).is_file():
        return {}
    return union_of_versions([read_manifest(folder)["made_from"].get("libraries", {})])


def _changed(folder: Path, what: str) -> DamagedError:
    return DamagedError(folder, f"{what} does not match {MANIFEST}; rebuild the model")


def _not_writable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be written: {error}; free some space or choose another output path"
    )


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Distinguish damage, which lasts, from passing errors such as an unavailable file server."""
    try:
        yield
    except OSError as error:
        if error.errno in _LASTING_ERRORS:
            raise DamagedError(folder, f"{folder} cannot be read: {error}; rebuild it") from error
        raise CheckpointError(
            f"{folder} cannot be read: {error}; it may be intact and was kept: check the file "
            "system and permissions, then rerun the same command"
        ) from error


def _is_file(path: Path) -> bool:
    """Like `Path.is_file`, which in some versions of Python also hides passing errors."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _listed_files(manifest: Mapping[str, Any]) -> set[str] | None:
    """Names of the files in a manifest, or None if mergegrid did not write it."""
    files, made_from = manifest.get("files"), manifest.get("made_from")
    weights = manifest.get("weights", {"files": {}, "tensors": {}})
    parts = [files, made_from, weights]
    parts += [weights.get("files"), weights.get("tensors")] if isinstance(weights, dict) else []
    if not all(isinstance(part, dict) for part in parts):
        return None
    return {*manifest["files"], *weights["files"]}


def _published_files(folder: Path) -> set[str]:
    """Names of the files of a folder that mergegrid published and may replace."""
    try:
        listed = _listed_files(read_json(folder / MANIFEST))
    except CheckpointError:
        return set()
    return set() if listed is None else listed | {MANIFEST}


def _recover(previous: Path, folder: Path) -> None:
    """Undo a replacement that was interrupted; clean up after one that was completed."""
    if previous.is_dir() and not os.path.lexists(folder):
        previous.replace(folder)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock beside a folder, which the kernel releases if the process is killed.

    The lock is on a file that is open for writing: NFS does not lock directories across machines,
    but it does lock such files.
    """
    path = folder.with_name(f".{folder.name}.lock")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    descriptor = _lock(path, folder)
    try:
        yield
    finally:
        # Unlinked while locked, so that a process that opened it earlier notices.
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # Parents that are not empty stay.
            for parent in new_parents:
                parent.rmdir()


def _lock(path: Path, folder: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _not_writable(folder, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, another process may have unlinked this file.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise CheckpointError(
                f"{folder} is being written by another process; wait for it or choose another "
                "output path"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise CheckpointError(
                f"{path} cannot be locked: {error}; choose an output path on a file system with "
                "locks (Lustre: mounted with `flock`)"
            ) from error
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
