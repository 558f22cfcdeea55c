"""Three faults that every run of the tests injects; the other ones: `make test-faults`."""

import os
import signal

import pytest
from faulty import EXPERT, TRIES, damage, hit_at_random

pytestmark = [pytest.mark.workflow, pytest.mark.faults]


def ctrl_c(_study, process, _chance):
    os.killpg(process.pid, signal.SIGINT)
    return True


def kill(_study, process, _chance):
    process.kill()
    return True


@pytest.mark.parametrize("hit", [ctrl_c, kill], ids=["Ctrl-C", "kill -9 of Snakemake"])
def test_a_run_hit_at_any_moment_is_finished_by_the_same_command(ready, chance, same, hit, request):
    for _ in range(TRIES):
        same(request.node.callspec.id, ready, hit_at_random(ready, chance, hit))


def test_a_damaged_expert_is_put_aside_and_made_again(ready, chance, same):
    for _ in range(TRIES):
        ready.forget_answers()
        damage(ready.results / EXPERT / "model.safetensors", "bit", chance)
        said = ready.fail()
        assert f"{EXPERT} does not match manifest.json" in said
        assert ready.put_aside(EXPERT) in said
        ready.finish()
        same("a bit of an expert flipped", ready, "put aside and made again")
