"""Commands that end with the process that starts them.

Run by path: `python parent_death.py PID WORDS...`.

Without this, a program that a killed job has started goes on: it keeps a GPU that is free for the
next job, and writes beside the rerun. The kernel ends only the program itself, not what that starts
in turn, and only on Linux; elsewhere the command just runs.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def bound(command: Sequence[str]) -> list[str]:
    """The words that start a command so that it is killed when this process ends.

    To the kernel this process is its thread that starts the command, so that has to wait for it.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this one is gone")
    os.execvp(sys.argv[2], sys.argv[2:])
