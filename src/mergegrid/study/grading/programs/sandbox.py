"""Run untrusted programs, one at a time per call, isolated from this machine.

bubblewrap gives each program its own namespaces: a read-only Python, an empty /tmp of a few
megabytes, no network, no /proc, no other process, none of our environment variables. A seccomp
filter refuses new processes; resource limits bound memory, files and processor time, and a
wall-clock limit bounds the rest.

A program passes only if `program_harness`, in which it runs, reports a random token after the
program's last line; exit codes and output are ignored. Whatever ends before the harness reports
that it started is a failure of the sandbox, never of the program.

Not covered: program and tests share one interpreter, so a solution whose results claim to equal
everything passes, and so does one that searches the interpreter's memory (ctypes) for the token.
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
from mergegrid.study.grading.programs import program_harness
from mergegrid.study.grading.programs.bubblewrap import bubblewrap_command, find_bubblewrap
from mergegrid.study.grading.programs.seccomp import MACHINES, filter_program

Status = Literal["passed", "failed", "timeout", "crashed"]

HARNESS_SOURCE = inspect.getsource(program_harness)
_OUTPUT_BYTES = 4096
_DETAIL_CHARACTERS = 200
# Addresses of objects differ from run to run.
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
# The hash seed is fixed, so that the order of a set cannot decide the outcome. That rules out -I,
# which would drop it; in an environment with nothing else, -P and -s isolate as much.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_PYTHON_OPTIONS = ("-P", "-s", "-S", "-B", "-X", "utf8")
# Passes only where new processes are refused, that is, where the seccomp filter works.
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
    """Programs cannot be run in isolation."""


@dataclass(frozen=True)
class Limits:
    """Resource limits of one program."""

    seconds: float = 20.0
    """Wall-clock seconds."""
    cpu_seconds: int = 8
    """Seconds of processor time."""
    memory_bytes: int = 512 << 20
    """Address space."""
    file_bytes: int = 16 << 20
    """Size of one file."""
    folder_bytes: int = 32 << 20
    """Total size of the files in /tmp."""
    stack_bytes: int = 64 << 20
    """Stack of the main thread."""
    open_files: int = 64
    """Files open at one time."""
    threads: int = 64
    """Threads at one time; the limit does not apply to root, which only memory limits."""


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """How one program ended."""

    status: Status
    """`passed`: it ran to its last line. `failed`: it raised an exception. `timeout`: it exceeded
    a limit on wall-clock or processor time. `crashed`: it ended before its last line otherwise."""
    detail: str
    """The error in one line, without memory addresses; empty for a program that passed."""
    lasting: bool = True
    """Whether the outcome depends on the program alone: false after a wall-clock timeout, which a
    busy machine may have caused."""


class Sandbox:
    """Runs programs one at a time; threads may share one."""

    def __init__(
        self,
        wrapper: Sequence[str],
        seccomp_filter: bytes | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """Create a sandbox.

        Args:
            wrapper: Command that isolates the Python process whose command follows it; empty to
                run without isolation.
            seccomp_filter: Filter that the wrapper reads by `--seccomp`.
            limits: Resource limits of each program.
        """
        self.limits = limits
        self.isolated = bool(wrapper)
        self._wrapper, self._filter = tuple(wrapper), seccomp_filter
        settings = {
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_CPU": limits.cpu_seconds,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_STACK": limits.stack_bytes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_CORE": 0,
        }
        if wrapper:  # Outside a user namespace this limit counts all processes of the user.
            settings["RLIMIT_NPROC"] = limits.threads
        python = os.path.realpath(sys.executable)
        arguments = [f"{name}={value}" for name, value in settings.items()]
        self._command = (python, *_PYTHON_OPTIONS, "-c", HARNESS_SOURCE, *arguments)

    def run(self, program: str) -> Outcome:
        """Run a program to its end or to a limit, then kill all its processes.

        Raises:
            SandboxError: The sandbox itself failed before the program started.
        """
        token = secrets.token_hex(program_harness.TOKEN_BYTES // 2).encode()
        with (
            tempfile.TemporaryFile() as text,
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ):
            text.write(token + program.encode("utf-8", "surrogatepass"))
            text.seek(0)
            process = self._start(text.fileno(), folder)
            try:
                output, in_time = _read(process, time.monotonic() + self.limits.seconds)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
        if not output.startswith(program_harness.STARTED):
            reason = self._outcome(output, in_time, code, token).detail
            raise SandboxError(
                f"the sandbox did not start ({reason}); possibly too few processes, no user "
                "namespaces, or too little memory. Rerun, with fewer jobs at once if that fails too"
            )
        return self._outcome(output.removeprefix(program_harness.STARTED), in_time, code, token)

    def _start(self, text: int, folder: str) -> subprocess.Popen[bytes]:
        wrapper = list(self._wrapper)
        inherited: list[int] = []
        if self._filter is not None:
            reading, writing = os.pipe()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(self._filter)
            inherited.append(reading)
            wrapper += ["--seccomp", str(reading), "--"]
        try:
            return subprocess.Popen(
                [*wrapper, *self._command],
                stdin=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                env=_ENVIRONMENT,
                cwd=folder,
                start_new_session=True,
            )
        finally:
            for descriptor in inherited:
                os.close(descriptor)

    def _outcome(self, output: bytes, in_time: bool, code: int, token: bytes) -> Outcome:
        if not in_time:
            detail = f"ran for more than {self.limits.seconds:g} s"
            return Outcome("timeout", detail, lasting=False)
        if output == token:
            return Outcome("passed", "")
        text = _ADDRESS.sub("at 0x...", output.decode("utf-8", "replace").strip())
        if output.startswith(program_harness.FAILED):
            detail = text.removeprefix(program_harness.FAILED.decode())
            return Outcome("failed", detail[:_DETAIL_CHARACTERS])
        # bubblewrap reports a signal as a shell does: 128 plus its number.
        number = -code if code < 0 else max(code - 128, 0)
        if number == signal.SIGXCPU:
            detail = f"used more than {self.limits.cpu_seconds} s of processor time"
            return Outcome("timeout", detail)
        if text:
            return Outcome("crashed", text.splitlines()[-1][:_DETAIL_CHARACTERS])
        if number:
            return Outcome("crashed", f"killed by {signal.strsignal(number) or number}")
        return Outcome("crashed", f"ended with status {code} before its last line")


def open_sandbox(unsafe: bool = False, limits: Limits = LIMITS) -> Sandbox:
    """Open a sandbox and verify that it works.

    Args:
        unsafe: Run programs without isolation where it is not available.
        limits: Resource limits of each program.

    Raises:
        SandboxError: Isolation is not available here, and `unsafe` is false.
    """
    reason = _why_unusable(limits)
    if reason is None:
        return _bubblewrapped(limits)
    if not unsafe:
        raise SandboxError(
            f"no sandbox for programs written by models: {reason}. Install bubblewrap 0.8 or newer "
            "and allow user namespaces (user.max_user_namespaces above 0; on Ubuntu "
            "kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt "
            "seccomp=unconfined --security-opt systempaths=unconfined), or set "
            "`unsafe_execution: true` in the config to run them with your own permissions"
        )
    logger.warning(
        "no sandbox (%s): programs written by models run with your own permissions", reason
    )
    return Sandbox((), limits=limits)


def _why_unusable(limits: Limits) -> str | None:
    if find_bubblewrap() is None:
        return "there is no program bwrap on the PATH"
    if platform.machine() not in MACHINES:
        return (
            f"the seccomp filter supports {' and '.join(MACHINES)}, and this machine is "
            f"{platform.machine()}"
        )
    try:
        outcome = _bubblewrapped(limits).run(_PROBE)
    except SandboxError as error:
        return str(error)
    if outcome.status != "passed":
        return f"the probe program {outcome.status} ({outcome.detail})"
    return None


def _bubblewrapped(limits: Limits) -> Sandbox:
    command = bubblewrap_command(limits.folder_bytes)
    return Sandbox(command, filter_program(platform.machine()), limits)


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bool]:
    """Read output until the process ends or exceeds the maximum; also return whether in time."""
    assert process.stdout is not None
    output = b""
    with process.stdout as pipe:
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        while len(output) <= _OUTPUT_BYTES:
            left = deadline - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                return output, False
            received = os.read(pipe.fileno(), _OUTPUT_BYTES)
            if not received:
                break
            output += received
    return output, True
