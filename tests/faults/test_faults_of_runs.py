"""Runs of the workflow that are killed, cut off or spoiled: the same command finishes the same."""

import os
import signal
import time

import pytest
from faulty import TRIES, end

pytestmark = pytest.mark.workflow


def disturbed(study, whole, chance, hit, tries):
    """Run again and again, hit at a random moment; how often it was hit before its end."""
    reached = 0
    for _ in range(tries):
        process = study.start()
        try:
            time.sleep(chance.uniform(1, 0.8 * whole.seconds))
            if process.poll() is None:
                reached += hit(process)
            process.wait(120)
        finally:
            end(process)
    return reached


def ctrl_c(process):
    os.killpg(process.pid, signal.SIGINT)
    return True


def terminate(process):
    process.send_signal(signal.SIGTERM)
    return True


def kill(process):
    process.kill()
    return True


@pytest.mark.parametrize("hit", [ctrl_c, terminate, kill], ids=["Ctrl-C", "SIGTERM", "kill -9"])
def test_a_run_hit_at_any_moment_is_finished_by_the_same_command(
    study, whole, chance, record, hit, request
):
    reached = disturbed(study, whole, chance, hit, TRIES)
    study.finish()
    assert study.digests() == whole.digests()
    fault = request.node.callspec.id
    for index in range(TRIES):
        record(f"{fault} of Snakemake", "same results" if index < reached else "came too late")
