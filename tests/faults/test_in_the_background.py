"""Runs that a shell has started in the background, where Ctrl-C is ignored, can be stopped."""

import signal

import pytest
from faulty import EXPERT, descendants, end, wait_for
from processes import gone, wait_until

pytestmark = [pytest.mark.workflow, pytest.mark.faults]


def ignore_ctrl_c():
    """Do what `trap '' INT` and the `&` of a script do to a command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_told_to_ignore_ctrl_c_ends_with_its_jobs(study, number):
    process = study.start(before=ignore_ctrl_c)
    try:
        assert wait_for(lambda: training(study, process), process), study.printed()
        below = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(300) != 0, study.printed()
        assert wait_until(lambda: all(map(gone, below)))
    finally:
        end(process)
    # SIGTERM lets Snakemake finish the jobs that run, SIGINT ends them.
    assert (study.results / EXPERT).exists() == (number == signal.SIGTERM)
    assert not (study.results / "scores.parquet").exists()


def training(study, process):
    """Whether a model is being fine-tuned."""
    log = study.folder / "logs/tiny/decoder/llama/trained/seed~0.log"
    return log.exists() and study.jobs(process)
