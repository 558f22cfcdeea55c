"""Memory as the kernel sees it: what this process holds, and what it can still be given."""

import math
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_STATUS, _MEMORY = Path("/proc/self/status"), Path("/proc/meminfo")


def resident() -> int:
    """Bytes that this process holds; where the system does not say, the most that it has held."""
    if held := next(_kilobytes(_STATUS, "VmRSS"), 0):
        return held * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def available() -> float:
    """Bytes that can be given, page cache that can be dropped included; infinite if not known.

    The limits of control groups, which SLURM jobs and containers have, count as if nothing of them
    were taken.
    """
    free = (kilobytes * 1024 for kilobytes in _kilobytes(_MEMORY, "MemAvailable"))
    groups = Path("/proc/self/cgroup")
    membership = groups.read_text() if groups.exists() else ""  # Not every kernel has them.
    return min([*free, *limits(membership, _GROUPS)], default=math.inf)


def limits(membership: str, groups: Path) -> Iterator[int]:
    """Limits in bytes of the control groups that a process is in, and of those around them.

    Args:
        membership: a line for each hierarchy, such as `0::/slurm/job_7` (version 2) or
            `4:memory:/slurm/job_7` (version 1).
        groups: where control groups are mounted.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for each in [group, *group.parents]:
            if each.is_relative_to(root):
                with suppress(OSError, ValueError):  # There is no limit, or it is "max".
                    yield int((each / name).read_text())


def _kilobytes(path: Path, key: str) -> Iterator[int]:
    """A number of a file that the kernel of Linux makes, as in `VmRSS:     1234 kB`."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        if line.startswith(f"{key}:"):
            yield int(line.split()[1])
