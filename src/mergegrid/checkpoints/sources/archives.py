"""Unpacking wheels and sdists without running code or writing outside the folder."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

from mergegrid.errors import SourceError

# Errors of the libraries for archives that are damaged, of an unknown format or inconsistent, for
# instance with a file in place of a folder.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(ValueError, KeyError, RuntimeError),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),
)


def unpack(archive: Path, content: Path) -> None:
    """Unpack a wheel or sdist into an empty folder, without the top folder of an sdist.

    Raises:
        SourceError: a member would be written outside the folder, is a device or a link to
            something other than a file of the sdist, or the archive is damaged.
    """
    try:
        if archive.suffix in (".whl", ".zip"):
            _unzip(archive, content)
        else:
            _untar(archive, content)
    except _DAMAGED as error:
        raise SourceError(
            f"{archive.name} is damaged or not safe to unpack ({error}); use another release"
        ) from error
    tops = list(content.iterdir())
    if archive.suffix != ".whl" and len(tops) == 1 and tops[0].is_dir():
        # Moved aside first, because a member may have the folder's own name.
        top = tops[0].rename(content.parent / "top")
        content.rmdir()
        top.rename(content)


def _unzip(archive: Path, content: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            _refuse_outside(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{member.filename!r} is a link or a device")
        file.extractall(content)


def _untar(archive: Path, content: Path) -> None:
    # Written member by member, without owners and modes: not every Python 3.11 has the filter that
    # makes `extractall` safe.
    with tarfile.open(archive) as file:
        for member in file:
            _refuse_outside(member.name)
            # `extractfile` follows links to files within the archive.
            if not member.isdir() and file.extractfile(member) is None:
                raise ValueError(f"{member.name!r} is a device, or a link to a folder")
        for member in file:
            path = content / member.name
            if data := file.extractfile(member):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as out:
                    shutil.copyfileobj(data, out)
            else:
                path.mkdir(parents=True, exist_ok=True)


def _refuse_outside(name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts:
        raise ValueError(f"{name!r} would be written outside the folder")
