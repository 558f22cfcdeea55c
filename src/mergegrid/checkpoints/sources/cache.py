"""The folder of fetched files: whole entries only, and checksums computed once.

An entry is `<cache>/pypi/six-1.16.0-b584bb5f8924/`, which holds `content/` and, written last,

    manifest.json    {"origin": "six-1.16.0-py2.py3-none-any.whl",
                      "files": {"six.py": {"bytes": 34549, "sha256": "4ce39f42..."}, ...}}

Next to the entries, `<cache>/digests/` remembers the checksums of large files, of the hub's cache
and of local folders too. A remembered checksum is believed while size, modification time and
change time of the file are what they were, so a file altered without a trace in those three is
not noticed.
"""

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mergegrid.errors import SourceError
from mergegrid.fsync import sync_directory, sync_tree
from mergegrid.hashing import canonical_json, digest, file_digest

_log = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_WORTH_A_LINE = 1_000_000_000


@dataclass(frozen=True)
class Found:
    """A file or folder on this disk, with the checksum of every file that belongs to it."""

    path: Path
    files: dict[str, str]
    """Relative name -> SHA-256, sorted; a single file stands under its base name."""
    bytes: int
    resolved: str = ""
    """The hub's commit, or the file name of the wheel or sdist."""
    sha256: str | None = None
    """Of the wheel or sdist, or of a single local file."""
    licence: str | None = None
    """As the origin states it."""


@dataclass(frozen=True)
class Entry:
    """A whole entry of the cache."""

    content: Path
    origin: str
    files: dict[str, str]


def root(cache: Path | None = None) -> Path:
    """The cache folder: the one given, `$MERGEGRID_CACHE`, or `mergegrid` in the user's cache.

    Raises:
        SourceError: the folder cannot be made.
    """
    if cache is None:
        ours, users = os.environ.get("MERGEGRID_CACHE"), os.environ.get("XDG_CACHE_HOME")
        cache = Path(ours) if ours else Path(users or "~/.cache") / "mergegrid"
    cache = cache.expanduser().absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            f"the cache folder {cache} cannot be made ({error.strerror}); "
            "set MERGEGRID_CACHE to a folder that you can write to"
        ) from error
    return cache


def slug(text: str, identity: Any) -> str:
    """A readable folder name that differs whenever the identity does."""
    return f"{re.sub(r'[^A-Za-z0-9.+]+', '-', text).strip('-.')[-60:]}-{digest(identity)[:12]}"


def entry(folder: Path, fill: Callable[[Path], str]) -> Entry:
    """The entry in a folder, made first where it is missing or not whole.

    `fill` writes the content into the empty folder that it is given and returns the name of what
    it came from. Of several processes that want one entry, one fills it and the others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (ready := _read(folder)) is not None:
        return ready
    with FileLock(f"{folder}.lock"):
        if (ready := _read(folder)) is not None:
            return ready
        if folder.exists():
            _log.warning("%s is not what its manifest says; fetching it again", folder)
            shutil.rmtree(folder)
        # Whoever left these was killed: the lock is ours.
        for stale in folder.parent.glob(f"{folder.name}.part-*"):
            shutil.rmtree(stale)
        work = folder.with_name(f"{folder.name}.part-{uuid.uuid4().hex[:8]}")
        try:
            (work / "content").mkdir(parents=True)
            origin = fill(work / "content")
            _write_manifest(work, origin)
            sync_tree(work)
            work.replace(folder)
            sync_directory(folder.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    made = _read(folder)
    assert made is not None, f"{folder} was just made and is not whole"
    return made


def drop(folder: Path) -> None:
    """Give up an entry: the next who wants it makes it again."""
    with FileLock(f"{folder}.lock"):
        (folder / _MANIFEST).unlink(missing_ok=True)


def measure(path: Path, names: Iterable[str], cache: Path) -> Found:
    """Checksum the named files below a folder, or the one file that `path` is."""
    folder, names = (path.parent, [path.name]) if path.is_file() else (path, sorted(names))
    memory = _memory(folder, cache)
    known = _load(memory)
    stats = {name: (folder / name).stat() for name in names}
    stamps = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats.items()}
    fresh = [name for name in names if known.get(name, [])[:3] != stamps[name]]
    size = sum(stats[name].st_size for name in fresh)
    if size > _WORTH_A_LINE:
        _log.info("checksumming %d files (%.1f GB) below %s", len(fresh), size / 1e9, folder)
    for name in fresh:
        # Else a power cut could take the bytes and leave the checksum that vouches for them.
        sync_tree(folder / name)
        known[name] = [*stamps[name], file_digest(folder / name)]
    if fresh:
        _replace(memory, known)
    files = {name: known[name][3] for name in names}
    return Found(path, files, sum(stat.st_size for stat in stats.values()))


def forget(path: Path, cache: Path) -> None:
    """Forget the checksums of a file or folder: they are computed anew when it is measured."""
    _memory(path.parent if path.is_file() else path, cache).unlink(missing_ok=True)


def _memory(folder: Path, cache: Path) -> Path:
    return cache / "digests" / f"{slug(folder.name, str(folder))}.json"


def _read(folder: Path) -> Entry | None:
    """The entry if its manifest and the names and sizes of its files agree."""
    manifest, content = _load(folder / _MANIFEST), folder / "content"
    try:
        expected = {name: fact["bytes"] for name, fact in manifest["files"].items()}
        checksums = {name: fact["sha256"] for name, fact in manifest["files"].items()}
        origin = manifest["origin"]
    except (KeyError, TypeError, AttributeError):
        return None
    found = {path.relative_to(content).as_posix(): path.stat().st_size for path in _files(content)}
    return Entry(content, origin, checksums) if found == expected else None


def _write_manifest(work: Path, origin: str) -> None:
    content = work / "content"
    files = {
        path.relative_to(content).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in _files(content)
    }
    _replace(work / _MANIFEST, {"origin": origin, "files": files})


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _load(path: Path) -> dict[str, Any]:
    """A JSON object from a file; nothing if the file is missing or was cut."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _replace(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # tempfile's names would be readable by their owner only, and a cache may be shared.
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    part.write_text(canonical_json(value), encoding="utf-8")
    part.replace(path)
