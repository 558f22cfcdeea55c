import os
import time
from pathlib import Path

import pytest

from mergegrid.study.grading.programs.sandbox import Limits, open_sandbox

# A number that marks the command line of every process that these tests start.
MARK = (512 << 20) + 4096 * os.getpid()


@pytest.fixture(scope="session")
def sandbox():
    # Its refusal fails the tests: the packages bring bubblewrap along.
    return open_sandbox()


@pytest.fixture(scope="session")
def tight(sandbox):
    """A sandbox that loses patience soon; it has been seen to refuse new processes."""
    return open_sandbox(limits=Limits(seconds=4, cpu_seconds=1, memory_bytes=MARK))


def marked():
    numbers = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"RLIMIT_AS={MARK}".encode() in path.read_bytes():
                numbers.append(int(path.parent.name))
        except OSError:
            continue
    return numbers


@pytest.fixture(scope="session")
def running():
    """The processes that were started with the limits of the tight sandbox."""
    return marked


@pytest.fixture(scope="session")
def all_gone():
    """Whether those processes are gone, at once or in a moment."""

    def gone():
        end = time.monotonic() + 3
        while marked() and time.monotonic() < end:
            time.sleep(0.02)
        return not marked()

    return gone
