"""One untrusted program at a time, run to its end or stopped, apart from this machine.

bubblewrap gives it namespaces of its own: a read-only Python, an empty /tmp of a few megabytes, no
network, no /proc, no other process, none of our environment. A filter of system calls refuses new
processes, resource limits bound memory, files and processor time, and the wall clock the rest.

A program passes only if the harness around it reports a random token after its last line; exit
codes and output count for nothing. What ends before the harness has said that it started is a fault
of the sandbox, never of the program. Not covered: program and tests share one interpreter, so a
solution whose results claim to equal everything passes, and so does one that searches the memory
of its interpreter (ctypes) for the token.
"""

import inspect
import logging
import os
import platform
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mergegrid.errors import MergegridError
from mergegrid.study.grading.programs import program_harness as harness
from mergegrid.study.grading.programs.bubblewrap import bubblewrap_command, find_bubblewrap
from mergegrid.study.grading.programs.seccomp import MACHINES, filter_program

Status = Literal["passed", "failed", "timeout", "crashed"]

_HARNESS = inspect.getsource(harness)
_OUTPUT_BYTES = 4096
_DETAIL_CHARACTERS = 200
# Where an object lies differs from run to run.
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
# A fixed hash seed: the order of a set must not decide between passed and failed. Thus no -I, which
# would drop it; beside it, -P and -s isolate as much in an environment that holds nothing else.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_PYTHON_OPTIONS = ("-P", "-s", "-S", "-B", "-X", "utf8")
# Ends well only where new processes are refused, that is, where the filter is at work.
_PROBE = """
import os
try:
    os.fork()
except PermissionError:
    pass
else:
    os._exit(1)
"""

logger = logging.getLogger(__name__)


class SandboxError(MergegridError):
    """Programs cannot be run apart from this machine."""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 20.0
    """By the clock on the wall."""
    cpu_seconds: int = 8
    """Of processor time."""
    memory_bytes: int = 512 << 20
    """Of address space."""
    file_bytes: int = 16 << 20
    """In one file."""
    folder_bytes: int = 32 << 20
    """In /tmp, all files together."""
    stack_bytes: int = 64 << 20
    """Of the main thread's stack."""
    open_files: int = 64
    """At one time."""
    threads: int = 64
    """At one time; root is not bound by it, only by its memory."""


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """How one program ended."""

    status: Status
    """`passed`: it ran to its last line. `failed`: it raised. `timeout`: out of time, by the
    wall or the processor. `crashed`: it ended in another way, without reaching its last line."""
    detail: str
    """The error in one line, without addresses in memory; empty for a program that passed."""
    lasting: bool = True
    """Whether it says something of the program alone: false where the wall's clock ran out, which
    a machine that is busy with others may have caused."""


class Sandbox:
    """Runs programs one at a time; threads may share one."""

    def __init__(
        self, wrapper: Sequence[str], calls: bytes | None = None, limits: Limits = LIMITS
    ) -> None:
        """Run programs behind a command and, where it takes one, a filter of system calls."""
        self.limits = limits
        self.isolated = bool(wrapper)
        self._wrapper, self._calls = tuple(wrapper), calls
        settings = {
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_CPU": limits.cpu_seconds,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_STACK": limits.stack_bytes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_CORE": 0,
        }
        if wrapper:  # Elsewhere this limit counts every process of the user.
            settings["RLIMIT_NPROC"] = limits.threads
        python = os.path.realpath(sys.executable)
        arguments = [f"{name}={value}" for name, value in settings.items()]
        self._command = (python, *_PYTHON_OPTIONS, "-c", _HARNESS, *arguments)

    def run(self, program: str) -> Outcome:
        """Run a program to its end or to a limit; nothing of it is left afterwards.

        Raises:
            SandboxError: the sandbox itself failed, before the program began.
        """
        token = secrets.token_hex(harness.TOKEN_BYTES // 2).encode()
        with (
            tempfile.TemporaryFile() as text,
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ):
            text.write(token + program.encode("utf-8", "surrogatepass"))
            text.seek(0)
            process = self._start(text.fileno(), folder)
            try:
                output, ended = _read(process, time.monotonic() + self.limits.seconds)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
        if not output.startswith(harness.STARTED):
            said = self._judge(output, ended, code, token).detail
            raise SandboxError(
                f"the sandbox did not start ({said}), maybe for want of processes, user namespaces "
                "or memory; run again, with fewer jobs at once if that does not help"
            )
        return self._judge(output.removeprefix(harness.STARTED), ended, code, token)

    def _start(self, text: int, folder: str) -> subprocess.Popen[bytes]:
        calls: list[int] = []
        wrapper = list(self._wrapper)
        if self._calls is not None:
            reading, writing = os.pipe()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(self._calls)
            calls.append(reading)
            wrapper += ["--seccomp", str(reading), "--"]
        try:
            return subprocess.Popen(
                [*wrapper, *self._command],
                stdin=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=calls,
                env=_ENVIRONMENT,
                cwd=folder,
                start_new_session=True,
            )
        finally:
            for each in calls:
                os.close(each)

    def _judge(self, output: bytes, ended: bool, code: int, token: bytes) -> Outcome:
        if not ended:
            said = f"ran for more than {self.limits.seconds:g} s"
            return Outcome("timeout", said, lasting=False)
        if output == token:
            return Outcome("passed", "")
        text = _ADDRESS.sub("at 0x...", output.decode("utf-8", "replace").strip())
        if output.startswith(harness.FAILED):
            said = text.removeprefix(harness.FAILED.decode())
            return Outcome("failed", said[:_DETAIL_CHARACTERS])
        # bubblewrap tells of a signal as a shell does.
        number = -code if code < 0 else max(code - 128, 0)
        if number == signal.SIGXCPU:
            said = f"used more than {self.limits.cpu_seconds} s of processor time"
            return Outcome("timeout", said)
        if text:
            return Outcome("crashed", text.splitlines()[-1][:_DETAIL_CHARACTERS])
        if number:
            return Outcome("crashed", f"killed by {signal.strsignal(number) or number}")
        return Outcome("crashed", f"ended with status {code} before its last line")


def open_sandbox(unsafe: bool = False, limits: Limits = LIMITS) -> Sandbox:
    """A sandbox that has been seen at work.

    Args:
        unsafe: Where there is no sandbox, run programs without one.
        limits: What each program may use.

    Raises:
        SandboxError: bubblewrap does not work here, and `unsafe` is false.
    """
    reason = _unusable(limits)
    if reason is None:
        return _bubblewrapped(limits)
    if not unsafe:
        raise SandboxError(
            f"programs written by models cannot be run apart from this machine: {reason}; install "
            "bubblewrap 0.8 or newer and allow user namespaces (user.max_user_namespaces above 0; "
            "on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0; in a container a seccomp "
            "profile with unshare), or say `unsafe_execution: true` in the config to run them "
            "with your own rights"
        )
    logger.warning("no sandbox (%s): programs written by models run with your own rights", reason)
    return Sandbox((), limits=limits)


def _unusable(limits: Limits) -> str | None:
    if find_bubblewrap() is None:
        return "there is no program bwrap on the PATH"
    if platform.machine() not in MACHINES:
        return (
            f"the filter of system calls knows {' and '.join(MACHINES)}, not {platform.machine()}"
        )
    try:
        outcome = _bubblewrapped(limits).run(_PROBE)
    except SandboxError as error:
        return str(error)
    if outcome.status != "passed":
        return f"a first empty program {outcome.status} ({outcome.detail})"
    return None


def _bubblewrapped(limits: Limits) -> Sandbox:
    command = bubblewrap_command(limits.folder_bytes)
    return Sandbox(command, filter_program(platform.machine()), limits)


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bool]:
    """What a process says until it ends or says too much, and whether it did so in time."""
    assert process.stdout is not None
    output = b""
    with process.stdout as pipe:
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        while len(output) <= _OUTPUT_BYTES:
            left = deadline - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                return output, False
            some = os.read(pipe.fileno(), _OUTPUT_BYTES)
            if not some:
                break
            output += some
    return output, True
