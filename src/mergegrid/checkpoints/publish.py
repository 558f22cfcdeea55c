"""Publishing a folder: written beside its place, manifest last, then renamed into it.

The manifest, `manifest.json`, lists every file with its SHA-256 and says what the folder was made
from. Where weights were streamed, it lists their files by size and header, and their tensors by
digest:

    {"files": {"config.json": "0f3a..."},
     "weights": {"files": {"model.safetensors": {"bytes": 2200119864, "header": "93c5..."}},
                 "tensors": {"lm_head.weight": "77b1..."}},
     "made_from": {...}}

A folder without a manifest is not a model. That all of it is on the disk, which a power cut would
need, is waited for by the jobs of the workflow, not here.

Before a job reads a folder, `check_published` compares its files with the manifest. Of weights that
were streamed that is the size and the header; a merge, which reads all of them, compares tensors.
What else loads such weights, generation and fine-tuning, does not notice bits that changed in them.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.digests import checkpoint_digest
from mergegrid.checkpoints.identity import identity_files, is_informational
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.safetensors_files import header_digest
from mergegrid.errors import CheckpointError, DamagedError
from mergegrid.hashing import digest, file_digest
from mergegrid.stages import Libraries, union_of_versions

MANIFEST = "manifest.json"
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


@dataclass
class Draft:
    """A folder that is being written."""

    path: Path
    made_from: dict[str, Any]
    weight_files: Mapping[str, Any] = field(default_factory=dict)
    """Files whose tensors were digested as they were written: size and SHA-256 of the header."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Digests of the tensors in them."""

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def manifest(self) -> dict[str, Any]:
        """What the folder holds now."""
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
    """Give a folder to write into; on success it gets its manifest and its final name.

    On an error nothing appears at `folder`, and what was written is removed. What a killed process
    left is removed by the next one.

    Raises:
        CheckpointError: something is at `folder` that was not published, another process is
            writing it, or the disk fails or has no room.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    check_destination(folder)
    draft = folder.with_name(f".{folder.name}.draft")
    previous = folder.with_name(f".{folder.name}.previous")
    with _alone(folder):
        try:
            draft.mkdir(exist_ok=True)
            _put_back(previous, folder)
            _empty(draft)
            written = Draft(draft, made_from)
            yield written
            text = json.dumps(written.manifest(), indent=2, sort_keys=True) + "\n"
            (draft / MANIFEST).write_text(text, encoding="utf-8")
            # Two renames: whatever is at `folder` at any moment is whole.
            if folder.exists():
                folder.replace(previous)
            draft.replace(folder)
            shutil.rmtree(previous, ignore_errors=True)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            _put_back(previous, folder)
            if isinstance(error, OSError):
                raise CheckpointError(
                    f"{folder} cannot be written: {error}; make room there or name another place"
                ) from error
            raise


def check_destination(folder: Path) -> None:
    """Check that a folder can be published here, and that nothing would be lost.

    Raises:
        CheckpointError: something is there that was not published, or it cannot be replaced.
    """
    if not os.path.lexists(folder):
        return
    if os.path.ismount(folder):
        raise CheckpointError(
            f"{folder} is a mount point, which no folder can replace; name a folder inside it"
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is there and no folder; name another place, or move it")
    if not any(folder.iterdir()):
        return
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()
    }
    strangers = sorted(found - _published(folder))
    if strangers:
        raise CheckpointError(
            f"{folder} is there already and holds {strangers[0]}, which mergegrid did not publish; "
            "name another place, or move it away"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder.

    Raises:
        CheckpointError: it cannot be read just now.
        DamagedError: the folder was never published, or the manifest or another file is damaged or
            gone.
    """
    path = folder / MANIFEST
    with _reading(folder):
        if not _is_there(path):
            wrong = f"{folder} has no {MANIFEST}, so it is not complete; make it again"
            raise DamagedError(folder, wrong)
        try:
            manifest = read_json(path)
        except CheckpointError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from error
            raise DamagedError(folder, str(error)) from error
        named = _named(manifest)
        if named is None:
            wrong = f"{path} was not written by mergegrid, or is damaged; make it again"
            raise DamagedError(folder, wrong)
        needed = sorted(name for name in named if not is_informational(name))
        missing = next((name for name in needed if not _is_there(folder / name)), None)
        if missing is not None:
            raise DamagedError(folder, f"{folder} has lost {missing}; make it again")
    return manifest


def check_published(folder: Path) -> None:
    """Compare the files of a published folder with its manifest.

    Files are read and digested; of streamed weights, sizes and headers are compared. Cards and
    other prose may have been edited or removed.

    Raises:
        CheckpointError: a file cannot be read just now.
        DamagedError: a file is not what was published, is gone, or lies where the disk is damaged.
    """
    manifest = read_manifest(folder)
    weights = manifest.get("weights", {}).get("files", {})
    with _reading(folder):
        for name, expected in identity_files(manifest["files"]).items():
            if file_digest(folder / name) != expected:
                raise _damaged(folder, str(folder / name))
        for name, expected in weights.items():
            path = folder / name
            # First the size, for a header may be cut.
            if (
                path.stat().st_size != expected["bytes"]
                or header_digest(path) != expected["header"]
            ):
                raise _damaged(folder, f"the size or the header of {path}")


def check_tensors(folder: Path, found: Mapping[str, str]) -> None:
    """Compare digests of tensors with those that were noted when the folder was published.

    Tensors of which nothing was noted pass: those of a folder that was never published, or whose
    weights were not streamed.

    Raises:
        DamagedError: a tensor is not what was published.
    """
    if not (folder / MANIFEST).is_file():
        return
    noted = read_manifest(folder).get("weights", {}).get("tensors", {})
    wrong = sorted(name for name in found if noted.get(name, found[name]) != found[name])
    if wrong:
        raise _damaged(folder, f"{wrong[0]} in {folder}")


def _damaged(folder: Path, what: str) -> DamagedError:
    return DamagedError(folder, f"{what} is not what {MANIFEST} says; make the model again")


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Tell damage, which lasts, from what may pass: a file server away, no right to read."""
    try:
        yield
    except OSError as error:
        if error.errno in _DAMAGE:
            wrong = f"{folder} cannot be read: {error}; make it again"
            raise DamagedError(folder, wrong) from error
        raise CheckpointError(
            f"{folder} cannot be read: {error}; nothing says that it is damaged, so it stays: see "
            "to its file system and its rights, and run the same command again"
        ) from error


def _is_there(path: Path) -> bool:
    """Whether there is such a file; unlike `is_file`, of any Python, it hides no other error."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def published_digest(folder: Path) -> str:
    """SHA-256 of what a published model computes with: weights, tokenizer and config, no prose."""
    manifest = read_manifest(folder)
    files = identity_files(manifest["files"])
    if "weights" not in manifest:
        return digest(files)
    weights = checkpoint_digest(manifest["weights"]["tensors"])
    return digest({"files": files, "weights": weights})


def recorded_libraries(folder: Path) -> Libraries:
    """Libraries that a folder was trained or computed with, as its manifest records them.

    Empty for a model that was not trained here, and for one that was never published.
    """
    if not (folder / MANIFEST).is_file():
        return {}
    return union_of_versions([read_manifest(folder)["made_from"].get("libraries", {})])


def _named(manifest: Mapping[str, Any]) -> set[str] | None:
    """Files that a manifest lists; nothing where it is not one of ours."""
    files, made_from = manifest.get("files"), manifest.get("made_from")
    weights = manifest.get("weights", {"files": {}, "tensors": {}})
    parts = [files, made_from, weights]
    parts += [weights.get("files"), weights.get("tensors")] if isinstance(weights, dict) else []
    if not all(isinstance(part, dict) for part in parts):
        return None
    return {*manifest["files"], *weights["files"]}


def _published(folder: Path) -> set[str]:
    """Files of a folder that are ours to replace."""
    try:
        named = _named(read_json(folder / MANIFEST))
    except CheckpointError:
        return set()
    return set() if named is None else named | {MANIFEST}


def _put_back(previous: Path, folder: Path) -> None:
    """Undo a replacement that did not come to its end; remove what one left that did."""
    if previous.is_dir() and not os.path.lexists(folder):
        previous.replace(folder)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock beside a folder, which the kernel takes back from a killed process.

    It is on a file that is open for writing: on a folder, NFS has no lock to give, and with one on
    a file it keeps machines apart as well as processes.
    """
    path = folder.with_name(f".{folder.name}.lock")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    descriptor = _lock(path, folder)
    try:
        yield
    finally:
        # While it is held: whoever opened the file before finds out that it is gone.
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # One that holds something stays.
            for parent in new_parents:
                parent.rmdir()


def _lock(path: Path, folder: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be written: {error}; make room there or name another place"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, another process may have let go of this very file.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise CheckpointError(
                f"{folder} is being written by another process; wait for it, or name another place"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise CheckpointError(
                f"{path} cannot be locked: {error}; name a place on a file system with locks "
                "(Lustre has them where it is mounted with `flock`)"
            ) from error
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
