"""What is written and drawn of a run, without Snakemake."""

import io
import time

import pytest
from rich.console import Console

from mergegrid.study.live.lines import LinesView
from mergegrid.study.live.run_state import Job, RunState
from mergegrid.study.live.screen import ScreenView
from mergegrid.study.live.view import RunFacts, failure_lines, failure_summary


@pytest.fixture
def state():
    state = RunState({"expert": 2, "table": 2}, {"expert": 600.0})
    log = "2026-01-01 10:00:00,123 INFO step 3 of 9, about 40 s left\n"
    return state, log


def start(state, tmp_path, log, number=1, name="trec"):
    path = tmp_path / f"{name}.log"
    path.write_text(log)
    job = Job("expert", f"expert {name}", str(path), started=state.clock())
    state.start(number, job)
    return job


def test_lines_say_what_runs_while_nothing_finishes(tmp_path, state):
    state, log = state
    stream = io.StringIO()
    view = LinesView(stream, quiet=0.05)
    view.begin(RunFacts("A study", "out", "full.log", "a cluster", "submitted"), state)
    start(state, tmp_path, log)
    end = time.monotonic() + 10
    while "submitted: " not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    view.end()
    head, *lines = stream.getvalue().splitlines()
    assert head == "A study: 4 jobs on a cluster"
    assert lines[:2] == ["results: out", "full log: full.log"]
    assert "0 of 4  submitted: expert trec for 0 s (step 3 of 9, about 40 s left)" in lines[2]
    # What the job says counts more than earlier runs, for the other one too.
    assert lines[2].endswith("; about 80 s left, then tables and figures")


def test_tables_and_figures_have_one_line_together(state):
    state, _ = state
    stream = io.StringIO()
    view = LinesView(stream)
    view.begin(RunFacts("A study"), state)
    for number in (1, 2):
        state.start(number, Job("table", f"table {number}", started=state.clock()))
        view.finished(*state.finish(number))
    view.end()
    (line,) = stream.getvalue().splitlines()[1:]
    assert "2 of 4  tables and figures, all 2; about" in line


def test_a_screen_that_is_too_small_counts_the_jobs_that_do_not_fit(tmp_path, state, monkeypatch):
    monkeypatch.setenv("LINES", "8")
    monkeypatch.setenv("TERM", "xterm")
    state, log = state
    for number in range(6):
        start(state, tmp_path, log, number, f"e{number}")
    view = ScreenView(io.StringIO())
    view.begin(RunFacts("A study"), state)
    console = Console(file=io.StringIO(), width=100)
    console.print(view.drawing())
    view.end()
    drawn = console.file.getvalue()
    assert "expert e0" in drawn
    assert "and 5 more" in drawn
    assert "step 3 of 9, about 40 s left" in drawn


def test_a_failure_without_a_log_shows_what_jobs_printed(tmp_path):
    output = tmp_path / "jobs.log"
    output.write_text("ModuleNotFoundError: no module named numpy\n")
    job = Job("expert", "expert trec", str(tmp_path / "none.log"))
    lines = failure_lines(job, 3.0, "SLURM status is: 'OUT_OF_MEMORY'", str(output))
    assert lines[0] == "failed after 0:03: expert trec (rule expert)"
    assert "  SLURM status is: 'OUT_OF_MEMORY'" in lines
    assert lines[-1] == "    ModuleNotFoundError: no module named numpy"


def test_many_failures_are_counted(state):
    state, _ = state
    jobs = [Job("expert", f"expert {number}") for number in range(8)]
    text = failure_summary(jobs, state, RunFacts(), "run it")
    assert text.startswith("8 of 4 jobs failed, 0 done:")
    assert "  and 3 more" in text.splitlines()
