"""Memory as the kernel reports it: what this process holds, and what is available."""

import math
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_STATUS, _MEMORY = Path("/proc/self/status"), Path("/proc/meminfo")


def resident() -> int:
    """Bytes that this process holds; where the system does not report it, its peak."""
    if held := next(_kilobytes(_STATUS, "VmRSS"), 0):
        return held * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def available() -> float:
    """Available bytes, page cache that can be dropped included; infinite if unknown.

    Limits of control groups, as SLURM jobs and containers have them, count in full, whatever part
    of them is in use.
    """
    free = (kilobytes * 1024 for kilobytes in _kilobytes(_MEMORY, "MemAvailable"))
    groups = Path("/proc/self/cgroup")
    membership = groups.read_text() if groups.exists() else ""  # Not every kernel has them.
    return min([*free, *limits(membership, _GROUPS)], default=math.inf)


def limits(membership: str, groups: Path) -> Iterator[int]:
    """Limits in bytes of the control groups of a process and of the groups that contain them.

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
        for ancestor in [group, *group.parents]:
            if ancestor.is_relative_to(root):
                with suppress(OSError, ValueError):  # No limit, or "max".
                    yield int((ancestor / name).read_text())


def _kilobytes(path: Path, key: str) -> Iterator[int]:
    """A number in a file of the Linux kernel, as in `VmRSS:     1234 kB`."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        if line.startswith(f"{key}:"):
            yield int(line.split()[1])
