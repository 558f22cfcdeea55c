"""Wall time, CPU time and peak memory of a child process and its descendants.

On Linux, the peak memory of a new process starts at that of its parent. Programs that import this
module must therefore stay small: no torch, no models.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """The cost of a command."""

    wall: float
    """Seconds from start to end."""
    cpu: float
    """Seconds of user and system time, summed over all descendants."""
    memory: float
    """Peak resident memory in MB (10^6 bytes) of the largest process. Pages of mapped files count
    while they are resident."""

    def then(self, other: "Cost") -> "Cost":
        """Return the cost of running both, one after the other."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.memory, other.memory))


def measure(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run a command and write its output to the log.

    Raises:
        SystemExit: the command fails; with the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        line = " ".join(map(str, command))
        raise SystemExit(f"error: exit code {process.returncode} from {line}\n{end}\nSee {log}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def read_all(files: Sequence[Path], log: Path) -> Cost:
    """Read files once, which also loads them into the page cache."""
    script = 'exec cat "$@" > /dev/null'
    return measure(["sh", "-c", script, "cat", *files], log)


def floor(
    inputs: Sequence[Path], outputs: Sequence[Path], folders: Sequence[Path], log: Path
) -> Cost:
    """Measure the least work of any merge: read the inputs and write as much as the merge writes.

    `cat` of the inputs, then one `cp` of the outputs into each folder, sequentially. Blocks are
    copied, not shared by the file system.
    """
    cost = read_all(inputs, log)
    for folder in folders:
        folder.mkdir(parents=True)
        cost = cost.then(measure(["cp", "--reflink=never", *outputs, folder], log))
    return cost
