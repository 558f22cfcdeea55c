"""The logger in runs of a small workflow: on a terminal, in a log file, and where it steps back."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

LOGGER = ("--logger", "mergegrid")
SNAKEFILE = """
from mergegrid.study.live.handler import announce, marked

FAILS = config.get("fails")


onstart:
    handlers = workflow.logger_manager.get_log_handlers()
    announce(handlers, title="A study", results="out", full_log=log[0], again="run it")


onsuccess:
    logger.info("Findings: all is well.", extra=marked())


rule all:
    input:
        "out/minilm-trec-0.txt",
        "out/table.txt",


rule expert:
    output:
        "out/{family}-{expert}-{seed}.txt",
    log:
        "logs/{family}-{expert}-{seed}.log",
    shell:
        "echo '2026-01-01 10:00:00,123 INFO half way' > {log}; echo noise; echo more >&2;"
        + (
            "sleep 0.5; echo '2026-01-01 10:00:01,123 ERROR training diverged' >> {log}; exit 1"
            if FAILS
            else "sleep 1.5; touch {output}"
        )


rule table:
    output:
        "out/table.txt",
    shell:
        "touch {output}"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]


def piped(folder, *arguments):
    """What is printed into a pipe, and the exit status."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout, done.returncode


def on_a_terminal(folder, *arguments, **environment):
    """What a terminal of 100 columns receives, and the exit status."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        close_fds=True,
    )
    os.close(theirs)
    received = b""
    while True:
        if select.select([own], [], [], 0.2)[0]:
            try:
                part = os.read(own, 65536)
            except OSError:
                break  # The other side is closed.
            if not part:
                break
            received += part
    os.close(own)
    return received.decode(), process.wait()


def without_escapes(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def full_log(folder):
    return max((folder / ".snakemake" / "log").glob("*.snakemake.log")).read_text()


def test_a_log_file_gets_a_line_for_each_job_and_the_conclusion(folder):
    printed, status = piped(folder, *LOGGER)
    assert status == 0
    lines = printed.splitlines()
    assert "A study: 3 jobs on 2 cores" in lines
    assert any(
        re.match(r"\[\d:\d\d\] \d of 3  expert trec of minilm, seed 0, 0:0\d", li) for li in lines
    )
    assert any("table" in line or "tables and figures" in line for line in lines)
    assert lines[-1] == "Findings: all is well."
    assert "\x1b" not in printed
    assert "rule expert:" not in printed
    assert "rule expert:" in full_log(folder)


def test_a_failed_job_shows_its_rule_and_the_end_of_its_log_and_once_more_at_the_end(folder):
    printed, status = piped(folder, *LOGGER, "--config", "fails=1")
    assert status == 1
    assert "expert trec of minilm, seed 0 (rule expert)" in printed
    assert "ERROR training diverged" in printed
    end = printed[printed.index("jobs failed,") :]
    assert "training diverged" in end
    assert "log: logs/minilm-trec-0.log" in end
    assert "run it" in end.splitlines()[-1]
    assert "CalledProcessError" not in printed
    assert "Findings" not in printed


def test_a_terminal_shows_bars_what_runs_and_the_conclusion(folder):
    raw, status = on_a_terminal(folder, *LOGGER)
    shown = without_escapes(raw)
    assert status == 0
    assert "fine-tune or import" in shown
    assert "expert trec of minilm" in shown
    assert "half way" in shown
    assert "Findings: all is well." in shown
    assert "\x1b[?25h" in raw, "the cursor is not shown again"
    # What jobs print does not run through the drawing.
    assert "noise" not in shown
    (kept,) = (folder / ".snakemake" / "log").glob("*.jobs.log")
    assert {"noise", "more"} <= set(kept.read_text().split())


def test_no_color_leaves_the_colors_out(folder):
    raw, status = on_a_terminal(folder, *LOGGER, NO_COLOR="1")
    assert status == 0
    assert "fine-tune or import" in raw
    # Colors of the foreground and the background, with 8, 16, 256 and all colors.
    assert not re.findall(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m", raw)


def test_a_failure_on_a_terminal_stays_above_and_is_repeated(folder):
    raw, status = on_a_terminal(folder, *LOGGER, "--config", "fails=1")
    shown = without_escapes(raw)
    assert status == 1
    assert shown.count("training diverged") >= 2
    assert "next: fix it and run the same command" in shown


def test_ctrl_c_is_no_failure(folder):
    text = (folder / "Snakefile").read_text()
    (folder / "Snakefile").write_text(text.replace("sleep 1.5", "sleep 60"))
    process, own = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ["TERM"] = "xterm-256color"
        # Tests that run in the background may have it ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(sys.executable, command(*LOGGER))
    received = b""
    with suppress(OSError):  # The other side is closed.
        while part := os.read(own, 65536):
            # What is drawn arrives in pieces.
            if b"half way" in received + part and b"half way" not in received:
                os.write(own, b"\x03")
            received += part
    os.close(own)
    _, status = os.waitpid(process, 0)
    shown = without_escapes(received.decode())
    assert os.waitstatus_to_exitcode(status) == 1
    assert "interrupted: 1 of 3 jobs done" in shown
    assert "next: the same command continues: run it" in shown
    assert "failed after" not in shown


def test_a_simple_terminal_gets_lines(folder):
    raw, status = on_a_terminal(folder, *LOGGER, TERM="dumb")
    assert status == 0
    assert "expert trec of minilm, seed 0, 0:0" in raw
    assert "\x1b[" not in raw


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dry-run"],
        ["--verbose"],
        ["--printshellcmds"],
        ["--logger-mergegrid-view", "full"],
        ["--quiet", "host"],
    ],
)
def test_it_steps_back_where_snakemake_is_asked_for_its_own_output(folder, arguments):
    printed, status = piped(folder, *LOGGER, *arguments)
    assert status == 0
    assert "rule expert:" in printed
    assert "A study: 3 jobs" not in printed


def test_quiet_is_quiet(folder):
    # What jobs print is theirs.
    assert piped(folder, *LOGGER, "--quiet", "all") == ("noise\nmore\n", 0)


def test_nothing_to_be_done_and_errors_of_the_workflow_are_shown(folder):
    assert piped(folder, *LOGGER)[1] == 0
    printed, status = piped(folder, *LOGGER)
    assert (status, "Nothing to be done" in printed) == (0, True)
    printed, status = piped(folder, *LOGGER, "--", "no_such_file")
    assert (status, "MissingRuleException" in printed) == (1, True)


def test_its_dry_run_prints_what_snakemake_prints_without_it(folder, monkeypatch):
    # Snakemake prints sets.
    monkeypatch.setenv("PYTHONHASHSEED", "0")

    def lines(*arguments):
        printed, _ = piped(folder, "--dry-run", *arguments)
        own = re.compile(r"\d\d:\d\d:\d\d|Workflow ID|Command|jobid")
        # The order of jobs is not fixed, and neither are their numbers.
        return sorted(line for line in printed.splitlines() if not own.search(line))

    assert lines(*LOGGER) == lines()


def test_results_that_cannot_be_read_do_not_end_the_run(folder):
    text = (folder / "Snakefile").read_text()
    rule = '\nrule sweep:\n    output:\n        "out/scores.txt",\n'
    rule += '    shell:\n        "touch {output}"\n'
    (folder / "Snakefile").write_text(text + rule)
    printed, status = piped(folder, *LOGGER, "--", "out/scores.txt", "out/table.txt")
    assert status == 0, printed
    assert (folder / "out" / "scores.txt").exists()
    assert Path(folder / "out" / "table.txt").exists()
