"""Files and the disk: what must outlive a power cut, room set aside, and copies that cost none.

What must outlive a power cut goes to the disk before the name that promises it.
"""

import ctypes
import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

# What file systems answer that have nothing to wait for, or no way to ask for it.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS)
# FICLONE of linux/fs.h, which no module of Python names.
_CLONE = 0x40049409


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk.

    Raises:
        OSError: the disk failed or is full.
    """
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for each in (Path(folder) / name for name in names):
                if not each.is_symlink():
                    _wait(each)
            sync_directory(Path(folder))
    else:
        _wait(path)


def sync_directory(folder: Path) -> None:
    """Wait until what was made, renamed and removed in a folder is on the disk.

    Raises:
        OSError: the disk failed.
    """
    _wait(folder)


def allocate(descriptor: int, size: int) -> None:
    """Give a new file its size, and blocks of the disk where the file system can set them aside.

    Elsewhere the file stays sparse, and free room is compared with the size. The C library's
    `posix_fallocate` would write into every block of it, which on NFS takes as long as the file.

    Raises:
        OSError: the disk has no room.
    """
    try:
        _fallocate(descriptor, size)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        disk = os.fstatvfs(descriptor)
        if size > disk.f_bavail * disk.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        os.ftruncate(descriptor, size)


def clone(source: Path, target: Path) -> bool:
    """Make a file that shares its blocks with another until one of them is written to.

    Returns:
        Whether the file system can do that (btrfs, XFS, bcachefs); else there is no new file.
    """
    with source.open("rb") as read, target.open("xb") as written, suppress(OSError):
        fcntl.ioctl(written.fileno(), _CLONE, read.fileno())
        return True
    target.unlink()
    return False


def _fallocate(descriptor: int, size: int) -> None:
    """The system call, which fails where the file system cannot do it.

    Raises:
        OSError: it cannot, or the disk has no room.
    """
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while function(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _wait(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)
