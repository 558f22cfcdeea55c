import errno
import re
import struct
from pathlib import Path

import pytest

from mergegrid.study.grading.programs.seccomp import MACHINES, filter_program, refused_calls

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: Calls that every program makes: read, write, mmap, futex, execve, exit_group.
EVERYDAY = {"x86_64": (0, 1, 9, 202, 59, 231), "aarch64": (63, 64, 222, 98, 221, 94)}
CLONE = {"x86_64": 56, "aarch64": 220}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOW, KILL = 0x7FFF0000, 0x80000000
THREAD = 0x3D0F00  # The flags of pthread_create.
CHILD = 0x1200011  # The flags of fork.


def verdict(machine, number, argument=0, arch=None):
    """Run the filter as the kernel does."""
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, argument, 0, 0, 0, 0, 0)
    program = [*struct.iter_unpack("HBBI", filter_program(machine))]
    tests = {
        0x15: lambda value, k: value == k,
        0x35: lambda value, k: value >= k,
        0x45: lambda value, k: value & k,
    }
    value, position = 0, 0
    while True:
        code, if_true, if_false, k = program[position]
        position += 1
        if code == 0x06:
            return k
        if code == 0x20:
            value = int.from_bytes(data[k : k + 4], "little")
        else:
            position += if_true if tests[code](value, k) else if_false


def refusal(number):
    return 0x00050000 | number


@pytest.mark.parametrize("machine", MACHINES)
def test_what_every_program_does_is_allowed(machine):
    assert {verdict(machine, number) for number in EVERYDAY[machine]} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_of_the_list_is_refused(machine):
    for name, number in refused_calls(machine).items():
        assert verdict(machine, number) == refusal(errno.EPERM), name


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_may_be_started_and_processes_not(machine):
    assert verdict(machine, CLONE[machine], THREAD) == ALLOW
    assert verdict(machine, CLONE[machine], CHILD) == refusal(errno.EPERM)
    assert verdict(machine, CLONE[machine], 0) == refusal(errno.EPERM)
    assert verdict(machine, 435, THREAD) == refusal(errno.ENOSYS)


@pytest.mark.parametrize("machine", MACHINES)
def test_only_local_pairs_of_sockets_are_made(machine):
    assert verdict(machine, SOCKETPAIR[machine], 1) == ALLOW
    assert verdict(machine, SOCKETPAIR[machine], 2) == refusal(errno.EPERM)


def test_other_numberings_of_the_same_machine_are_no_way_round():
    fork_of_x32 = 0x40000000 | 57
    assert verdict("x86_64", fork_of_x32) == refusal(errno.EPERM)
    assert verdict("x86_64", 2, arch=0x40000003) == KILL
    assert verdict("aarch64", 2, arch=0x40000028) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernel(machine):
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    pattern = r"#define __NR(?:3264)?_(\w+)\s+(\d+)"
    numbers = {name: int(value) for name, value in re.findall(pattern, header.read_text())}
    named = {**refused_calls(machine), "clone": CLONE[machine], "socketpair": SOCKETPAIR[machine]}
    assert {name: numbers[name] for name in named} == named
