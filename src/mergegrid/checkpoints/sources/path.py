"""Local files and folders, used where they lie."""

import os
from pathlib import Path

from mergegrid.checkpoints.sources import cache
from mergegrid.checkpoints.sources.cache import Found
from mergegrid.checkpoints.sources.source import PathOrigin
from mergegrid.errors import SourceError


def find(origin: PathOrigin, sha256: str | None, store: Path) -> Found:
    """The file or folder at a path, relative to the current working directory.

    A folder stands for all regular files below it. Nothing is copied.

    Raises:
        SourceError: nothing is there, the folder is empty or has a link that leads to no file, or
            the file's checksum is not the one that was pinned.
    """
    path = Path(origin.path).expanduser().absolute()
    if not path.exists():
        raise SourceError(
            f"path:{origin.path}: there is nothing at {path}; correct the path "
            "(it is relative to the folder in which the run starts)"
        )
    if path.is_file():
        found = cache.measure(path, [path.name], store)
        actual = found.files[path.name]
        if sha256 is not None and actual != sha256:
            raise SourceError(
                f"{path}: expected sha256 {sha256}, found {actual}; restore the file, or correct "
                "`sha256:` in the config if the change is meant"
            )
        return Found(path, found.files, found.bytes, sha256=actual)
    if sha256 is not None:
        raise SourceError(
            f"{path} is a folder, and `sha256:` pins a single file; name the file, or take "
            "`sha256:` out of the config"
        )
    names = _names(path)
    if not names:
        raise SourceError(f"{path} holds no file; name the folder that holds them")
    return cache.measure(path, names, store)


def _names(folder: Path) -> list[str]:
    """Relative names of the files below a folder, those that links lead to included.

    A link to a file is the user's own and followed wherever it leads: into a hub cache, or to the
    disk where large files lie.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in [*folders, *files]):
            if path.is_symlink() and not path.is_file():
                what = "a folder" if path.is_dir() else "nothing"
                raise SourceError(
                    f"{path} is a link to {path.readlink()}, which is {what}; only links to files "
                    "are followed: copy what it points to (`cp -rL`), or remove it"
                )
            if path.is_file():
                names.append(path.relative_to(folder).as_posix())
    return names
