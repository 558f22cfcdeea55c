"""What must outlive a power cut: bytes go to the disk before the name that promises them."""

import errno
import os
from pathlib import Path

# What file systems answer that have nothing to wait for, or no way to ask for it.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS)


def settle(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk.

    Raises:
        OSError: the disk failed or is full.
    """
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for each in (Path(folder) / name for name in names):
                if not each.is_symlink():
                    _wait(each)
            settle_names(Path(folder))
    else:
        _wait(path)


def settle_names(folder: Path) -> None:
    """Wait until what was made, renamed and removed in a folder is on the disk.

    Raises:
        OSError: the disk failed.
    """
    _wait(folder)


def _wait(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)
