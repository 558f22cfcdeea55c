"""What memory there is, also where control groups limit it."""

import mmap
import os

import pytest

from mergegrid.engine.memory import available, limits, resident

#: Memory limits of control groups: of version 2, and of version 1, where no limit is a number too.
VERSION_2 = {"slurm/memory.max": "8000", "slurm/job_7/memory.max": "max"}
VERSION_1 = {
    "memory/memory.limit_in_bytes": str((1 << 63) - 4096),
    "memory/slurm/memory.limit_in_bytes": "9000",
    "memory/slurm/job_7/memory.limit_in_bytes": "7000",
    "memory/elsewhere/memory.limit_in_bytes": "10",
}


@pytest.mark.parametrize(
    ("files", "membership", "least"),
    [
        (VERSION_2, "0::/slurm/job_7\n", 8000),
        (VERSION_1, "9:cpu,cpuacct:/elsewhere\n4:memory:/slurm/job_7\n0::/\n", 7000),
        (VERSION_1, "4:memory:/\n", (1 << 63) - 4096),
        (VERSION_2, "0::/\n", None),
        ({}, "4:memory:/slurm\n0::/user:with:colons\n", None),
        (VERSION_2, "", None),
    ],
)
def test_the_smallest_limit_around_a_process_counts(tmp_path, files, membership, least):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert min(limits(membership, tmp_path), default=None) == least


def test_what_is_available_is_some_of_the_memory_of_this_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available() <= total


def test_what_a_process_holds_grows_with_what_it_writes_to():
    before = resident()
    # Pages of its own: the allocator may hand out memory that the process holds already.
    with mmap.mmap(-1, 64 << 20) as held:
        held.write(b"x" * len(held))
        assert before + len(held) * 0.9 < resident() < before + len(held) * 3
