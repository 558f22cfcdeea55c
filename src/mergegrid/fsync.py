"""Writing files to disk: durability, preallocation and copy-on-write clones.

Data that must survive a power failure is synced before the rename that announces it.
"""

import ctypes
import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS)
# FICLONE of linux/fs.h; Python has no constant for it.
_FICLONE = 0x40049409


def sync_tree(path: Path) -> None:
    """Sync a file, or a folder with everything below it, to disk. Symbolic links are skipped.

    Raises:
        OSError: the disk failed or is full.
    """
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for file in (Path(folder, name) for name in names):
                if not file.is_symlink():
                    _sync(file)
            _sync(Path(folder))
    else:
        _sync(path)


def sync_directory(folder: Path) -> None:
    """Sync the entries of a folder, so that new names, renames and removals are on disk.

    Raises:
        OSError: the disk failed.
    """
    _sync(folder)


def allocate(descriptor: int, size: int) -> None:
    """Give a new file its size, reserving disk blocks where the file system supports it.

    Elsewhere the file stays sparse, and the size is compared with the free space. `posix_fallocate`
    is not used: where the file system lacks the call, the C library writes to every block instead,
    which on NFS takes as long as writing the file.

    Raises:
        OSError: the disk has too little free space.
    """
    try:
        _fallocate(descriptor, size)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        disk = os.fstatvfs(descriptor)
        if size > disk.f_bavail * disk.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        os.ftruncate(descriptor, size)


def clone(source: Path, target: Path) -> bool:
    """Create a copy-on-write clone of a file.

    Returns:
        Whether the file system supports it (btrfs, XFS, bcachefs); if not, no file is created.
    """
    with source.open("rb") as read, target.open("xb") as written, suppress(OSError):
        fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
        return True
    target.unlink()
    return False


def _fallocate(descriptor: int, size: int) -> None:
    """Make the system call itself, which fails where the file system does not support it.

    Raises:
        OSError: the call is not supported, or the disk has too little free space.
    """
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while function(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
