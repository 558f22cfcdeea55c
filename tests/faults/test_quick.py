"""Three faults that every run of the tests injects; the other ones: `make test-faults`."""

import os
import signal

import pytest
from faulty import TRIES, damage, hit_at_random

pytestmark = [pytest.mark.workflow, pytest.mark.faults]


def ctrl_c(_, process):
    os.killpg(process.pid, signal.SIGINT)
    return True


def kill(_, process):
    process.kill()
    return True


@pytest.mark.parametrize("hit", [ctrl_c, kill], ids=["Ctrl-C", "kill -9 of Snakemake"])
def test_a_run_hit_at_any_moment_is_finished_by_the_same_command(ready, chance, same, hit, request):
    for _ in range(TRIES):
        same(request.node.callspec.id, ready, hit_at_random(ready, chance, hit))


def test_a_damaged_expert_is_put_aside_and_made_again(ready, chance, same):
    for _ in range(TRIES):
        ready.forget_answers()
        folder = ready.results / "llama/experts/trained/seed~0"
        damage(folder / "model.safetensors", "bit", chance)
        said = ready.fail()
        assert f"in {folder} is not what manifest.json says" in said
        assert f"{folder}.damaged, and the same command makes it again" in said
        ready.finish()
        same("a bit of an expert flipped", ready, "put aside and made again")
