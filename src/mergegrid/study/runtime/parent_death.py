"""Commands that end with the process that starts them.

Run by path: `python parent_death.py PID COMMAND...`.

Otherwise a program started by a killed job runs on: it occupies a GPU whose lease is free, and
writes beside the rerun. The kernel kills only the command itself, not its children, and only on
Linux; elsewhere the command runs unguarded.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def dies_with_parent(command: Sequence[str]) -> list[str]:
    """Return a command line that is killed when this process ends.

    The kernel watches the thread that starts the command, so that thread must wait for it.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent process has already ended")
    os.execvp(sys.argv[2], sys.argv[2:])
