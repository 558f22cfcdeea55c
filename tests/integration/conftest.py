"""Running the command in this process, and as one of its own."""

import logging
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mergegrid import cli


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys, caplog):
    """`run("merge", recipe, out)` in this process; `err` holds the log too, as on a terminal."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mergegrid", *map(str, words)])
        capsys.readouterr()
        caplog.clear()
        handler = signal.getsignal(signal.SIGTERM)
        with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as stopped:
            cli.main()
        signal.signal(signal.SIGTERM, handler)
        printed = capsys.readouterr()
        log = "".join(f"{record.getMessage()}\n" for record in caplog.records)
        return Outcome(stopped.value.code or 0, printed.out, log + printed.err)

    return call


@pytest.fixture
def start():
    """Start the command as a process of its own; whatever is left is killed in the end."""
    started = []

    def begin(*words):
        command = [Path(sys.executable).with_name("mergegrid"), *map(str, words)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has its children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def execute(start):
    """Run the command as a process of its own to its end."""

    def call(*words):
        process = start(*words)
        out, err = process.communicate(timeout=120)
        return Outcome(process.returncode, out, err)

    return call
