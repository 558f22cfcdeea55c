"""Build a seccomp filter of system calls for untrusted programs, in classic BPF.

Threads may be started, processes may not: RLIMIT_NPROC does not apply to root, so only a filter
stops a fork bomb. Also refused are sockets other than local pairs, memory that no limit counts
(memfd, System V), and calls for debuggers, containers and kernel modules.
"""

import struct
from collections.abc import Iterator
from errno import ENOSYS, EPERM

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(_AUDIT_ARCH)
"""The architectures whose system call numbers are listed here."""

# Name and number of system calls.
_REFUSED = {
    "x86_64": """
        fork=57 vfork=58 socket=41 shmget=29 semget=64 msgget=68 ptrace=101 pivot_root=155
        chroot=161 mount=165 umount2=166 init_module=175 delete_module=176 mq_open=240
        kexec_load=246 add_key=248 request_key=249 keyctl=250 unshare=272
        perf_event_open=298 open_by_handle_at=304 setns=308 process_vm_readv=310
        process_vm_writev=311 kcmp=312 finit_module=313 memfd_create=319 kexec_file_load=320
        bpf=321 userfaultfd=323
    """,
    "aarch64": """
        umount2=39 mount=40 pivot_root=41 chroot=51 unshare=97 kexec_load=104
        init_module=105 delete_module=106 ptrace=117 mq_open=180 msgget=186 semget=190
        shmget=194 socket=198 add_key=217 request_key=218 keyctl=219 perf_event_open=241
        open_by_handle_at=265 setns=268 process_vm_readv=270 process_vm_writev=271 kcmp=272
        finit_module=273 memfd_create=279 bpf=280 userfaultfd=282 kexec_file_load=294
    """,
}
_REFUSED_EVERYWHERE = """
    io_uring_setup=425 io_uring_enter=426 io_uring_register=427 open_tree=428
    move_mount=429 fsopen=430 fsconfig=431 fsmount=432 fspick=433 pidfd_getfd=438
    mount_setattr=442 memfd_secret=447
"""
_CLONE = {"x86_64": 56, "aarch64": 220}
_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
_CLONE3 = 435
_CLONE_THREAD, _AF_UNIX = 0x00010000, 1
# System calls of the x32 ABI carry this bit, so the numbers above do not match them.
_X32 = 0x40000000

# Offsets in struct seccomp_data; both architectures store the low half of an argument first.
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000

Instruction = tuple[int, int, int, int]
"""Opcode, instructions to skip if true, instructions to skip if false, and the constant."""


def refused_calls(machine: str) -> dict[str, int]:
    """Return name and number of every system call that is refused whatever its arguments."""
    entries = (entry.split("=") for entry in (_REFUSED[machine] + _REFUSED_EVERYWHERE).split())
    return {name: int(number) for name, number in entries}


def filter_program(machine: str) -> bytes:
    """Return the filter for an architecture in the format of bubblewrap's `--seccomp`."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in _instructions(machine))


def _instructions(machine: str) -> Iterator[Instruction]:
    yield (_LOAD, 0, 0, _ARCH)
    yield (_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine])
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    if machine == "x86_64":
        yield (_IF_AT_LEAST, 0, 1, _X32)
        yield (_RETURN, 0, 0, _ERROR | EPERM)
    for number in refused_calls(machine).values():
        yield (_IF_EQUAL, 0, 1, number)
        yield (_RETURN, 0, 0, _ERROR | EPERM)
    # The flags of clone3 are in memory that a filter cannot read; on ENOSYS libc uses clone.
    yield (_IF_EQUAL, 0, 1, _CLONE3)
    yield (_RETURN, 0, 0, _ERROR | ENOSYS)
    yield from _only_if(_CLONE[machine], (_IF_ANY_BIT, 1, 0, _CLONE_THREAD))
    yield from _only_if(_SOCKETPAIR[machine], (_IF_EQUAL, 1, 0, _AF_UNIX))
    yield (_RETURN, 0, 0, _ALLOW)


def _only_if(number: int, test: Instruction) -> Iterator[Instruction]:
    """Refuse a system call unless a test of its first argument succeeds."""
    yield (_IF_EQUAL, 0, 4, number)
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield test
    yield (_RETURN, 0, 0, _ERROR | EPERM)
    yield (_RETURN, 0, 0, _ALLOW)
