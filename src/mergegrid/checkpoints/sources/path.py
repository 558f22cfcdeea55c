"""Local files and folders, used in place."""

import os
from pathlib import Path

from mergegrid.checkpoints.sources import cache
from mergegrid.checkpoints.sources.cache import LocalFiles
from mergegrid.checkpoints.sources.source import PathOrigin
from mergegrid.errors import SourceError


def find(origin: PathOrigin, sha256: str | None, store: Path) -> LocalFiles:
    """The file or folder at a path, relative to the current working directory.

    A folder stands for all regular files below it. Nothing is copied.

    Raises:
        SourceError: nothing exists there, the folder is empty or has a link to something other
            than a file, or the file's checksum differs from the pinned one.
    """
    path = Path(origin.path).expanduser().absolute()
    if not path.exists():
        raise SourceError(
            f"path:{origin.path}: {path} does not exist; correct the path "
            "(it is relative to the folder in which the run starts)"
        )
    if path.is_file():
        local = cache.measure(path, [path.name], store)
        actual = local.files[path.name]
        if sha256 is not None and actual != sha256:
            raise SourceError(
                f"{path}: expected sha256 {sha256}, got {actual}; restore the file, or correct "
                "`sha256:` in the config if the change is intended"
            )
        return LocalFiles(path, local.files, local.bytes, sha256=actual)
    if sha256 is not None:
        raise SourceError(
            f"{path} is a folder, but `sha256:` pins a single file; specify the file, or remove "
            "`sha256:` from the config"
        )
    names = _names(path)
    if not names:
        raise SourceError(f"{path} contains no files; specify the folder that contains them")
    return cache.measure(path, names, store)


def _names(folder: Path) -> list[str]:
    """Relative names of the files below a folder, including links to files.

    Links to files are followed wherever they lead, for instance into a hub cache or to a disk for
    large files, because the user created them.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in [*folders, *files]):
            if path.is_symlink() and not path.is_file():
                target = "a folder" if path.is_dir() else "missing"
                raise SourceError(
                    f"{path} is a link to {path.readlink()}, which is {target}; only links to "
                    "files are followed: copy the target (`cp -rL`) or remove the link"
                )
            if path.is_file():
                names.append(path.relative_to(folder).as_posix())
    return names
