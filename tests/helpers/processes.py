"""Processes that a test has started."""

import signal
import time
from pathlib import Path


def heed_ctrl_c():
    """Undo, in a child before it runs, that a shell has its background jobs ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(condition, seconds=20.0):
    """Whether something is so, now or within some seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def gone(process):
    """Whether a process has ended, though nobody may have asked how."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"
