"""Unpacking a wheel or sdist without running it or leaving the folder."""

import stat
import tarfile
import zipfile
from pathlib import Path

from mergegrid.errors import SourceError


def unpack(archive: Path, content: Path) -> None:
    """Unpack a wheel or sdist into an empty folder, without the top folder of an sdist.

    Raises:
        SourceError: a member would be written outside the folder, is a device or links outside,
            or the archive is damaged.
    """
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    _refuse_unsafe(member)
                file.extractall(content)
        else:
            with tarfile.open(archive) as file:
                file.extractall(content, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise SourceError(
            f"{archive.name} is not safe to unpack, or damaged ({error}); use another release"
        ) from error
    tops = list(content.iterdir())
    if archive.suffix != ".whl" and len(tops) == 1 and tops[0].is_dir():
        # Moved aside first: the folder may hold a member of its own name.
        top = tops[0].rename(content.parent / "top")
        content.rmdir()
        top.rename(content)


def _refuse_unsafe(member: zipfile.ZipInfo) -> None:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{member.filename!r} would be written outside the folder")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"{member.filename!r} is a link or a device")
