"""The cache of fetched files: complete entries only, with remembered checksums.

An entry is a folder such as `<cache>/pypi/six-1.16.0-b584bb5f8924/`, which holds `content/` and,
written last,

    manifest.json    {"origin": "six-1.16.0-py2.py3-none-any.whl",
                      "files": {"six.py": {"bytes": 34549, "sha256": "4ce39f42..."}, ...}}

Beside the entries, `<cache>/digests/` remembers the checksums of files in any folder, including the
hub's cache and local folders. A remembered checksum is trusted while the size, modification time
and change time of the file are unchanged; changes that leave all three as they were go unnoticed.
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
_LOG_BYTES = 1_000_000_000


@dataclass(frozen=True)
class LocalFiles:
    """A file or folder on this machine, with the checksum of each file."""

    path: Path
    files: dict[str, str]
    """SHA-256 by relative name, sorted; a single file is listed under its base name."""
    bytes: int
    resolved: str = ""
    """The hub's commit, or the file name of the wheel or sdist."""
    sha256: str | None = None
    """Checksum of the wheel or sdist, or of a single local file."""
    licence: str | None = None
    """License as stated by the origin."""


@dataclass(frozen=True)
class Entry:
    """A complete entry of the cache."""

    content: Path
    origin: str
    files: dict[str, str]


def root(cache: Path | None = None) -> Path:
    """The cache folder: `cache`, `$MERGEGRID_CACHE`, or `mergegrid` in the user's cache.

    Raises:
        SourceError: the folder cannot be created.
    """
    if cache is None:
        configured = os.environ.get("MERGEGRID_CACHE")
        user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache = Path(configured) if configured else Path(user_cache) / "mergegrid"
    cache = cache.expanduser().absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            f"the cache folder {cache} cannot be created ({error.strerror}); "
            "set MERGEGRID_CACHE to a writable folder"
        ) from error
    return cache


def slug(text: str, identity: Any) -> str:
    """A readable folder name that is unique to the identity."""
    return f"{re.sub(r'[^A-Za-z0-9.+]+', '-', text).strip('-.')[-60:]}-{digest(identity)[:12]}"


def entry(folder: Path, fill: Callable[[Path], str]) -> Entry:
    """The entry in a folder, created first if it is missing or incomplete.

    `fill` writes the content into the empty folder that it is passed and returns the name of its
    origin. Of several processes that need one entry, one fills it and the others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (ready := _read(folder)) is not None:
        return ready
    with FileLock(f"{folder}.lock"):
        if (ready := _read(folder)) is not None:
            return ready
        if folder.exists():
            _log.warning("%s does not match its manifest; fetching it again", folder)
            shutil.rmtree(folder)
        # Left over from killed processes, since this one holds the lock.
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
    created = _read(folder)
    assert created is not None, f"{folder} was just created and is incomplete"
    return created


def drop(folder: Path) -> None:
    """Invalidate an entry, so that the next request creates it again."""
    with FileLock(f"{folder}.lock"):
        (folder / _MANIFEST).unlink(missing_ok=True)


def measure(path: Path, names: Iterable[str], cache: Path) -> LocalFiles:
    """Compute the checksums of the named files below a folder, or of the single file `path`."""
    folder, names = (path.parent, [path.name]) if path.is_file() else (path, sorted(names))
    memory = _checksum_file(folder, cache)
    known = _load(memory)
    stats = {name: (folder / name).stat() for name in names}
    stamps = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats.items()}
    changed = [name for name in names if known.get(name, [])[:3] != stamps[name]]
    size = sum(stats[name].st_size for name in changed)
    if size > _LOG_BYTES:
        _log.info("checksumming %d files (%.1f GB) below %s", len(changed), size / 1e9, folder)
    for name in changed:
        # Otherwise a power failure could lose the bytes but keep the checksum.
        sync_tree(folder / name)
        known[name] = [*stamps[name], file_digest(folder / name)]
    if changed:
        _replace(memory, known)
    files = {name: known[name][3] for name in names}
    return LocalFiles(path, files, sum(stat.st_size for stat in stats.values()))


def forget(path: Path, cache: Path) -> None:
    """Forget the checksums of a file or folder, so that the next `measure` reads all of it."""
    _checksum_file(path.parent if path.is_file() else path, cache).unlink(missing_ok=True)


def _checksum_file(folder: Path, cache: Path) -> Path:
    return cache / "digests" / f"{slug(folder.name, str(folder))}.json"


def _read(folder: Path) -> Entry | None:
    """The entry, if the names and sizes of its files match its manifest."""
    manifest, content = _load(folder / _MANIFEST), folder / "content"
    try:
        sizes = {name: file["bytes"] for name, file in manifest["files"].items()}
        checksums = {name: file["sha256"] for name, file in manifest["files"].items()}
        origin = manifest["origin"]
    except (KeyError, TypeError, AttributeError):
        return None
    actual = {name: path.stat().st_size for name, path in _files(content).items()}
    return Entry(content, origin, checksums) if actual == sizes else None


def _write_manifest(work: Path, origin: str) -> None:
    files = {
        name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for name, path in _files(work / "content").items()
    }
    _replace(work / _MANIFEST, {"origin": origin, "files": files})


def _files(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _load(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if the file is missing or truncated."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _replace(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that readers see either the old or the new text, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Files of `tempfile` are readable by their owner only, and a cache may be shared.
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    part.write_text(canonical_json(value), encoding="utf-8")
    part.replace(path)
