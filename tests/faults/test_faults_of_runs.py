"""Runs of the workflow that are killed, cut off and spoiled: the same command finishes the same."""

import json
import os
import shutil
import signal
from contextlib import suppress

import pytest
from faulty import EXPERT, TRIES, damage, descendants, end, hit_at_random, wait_for

pytestmark = [pytest.mark.workflow, pytest.mark.faults]


def terminate(_study, process, _chance):
    process.send_signal(signal.SIGTERM)
    return True


def kill_a_job(study, process, chance):
    found = []
    if not wait_for(lambda: found.extend(study.jobs(process)) or found, process):
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(found), signal.SIGKILL)
    return True


def kill_any(_study, process, chance):
    """Any process below Snakemake: a job, or what it has started."""
    found = []
    if not wait_for(lambda: found.extend(descendants(process.pid)) or found, process):
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(found), signal.SIGKILL)
    return True


def cut_the_power(_study, process, _chance):
    """Everything is gone at once, and Snakemake's locks stay."""
    everything = [process.pid, *descendants(process.pid)]
    for each in everything:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return True


@pytest.mark.parametrize(
    "hit",
    [terminate, kill_a_job, kill_any, cut_the_power],
    ids=["SIGTERM", "kill -9 of a job", "kill -9 of a worker", "power cut, stale locks"],
)
def test_a_run_hit_at_any_moment_is_finished_by_the_same_command(ready, chance, same, hit, request):
    for _ in range(TRIES):
        same(request.node.callspec.id, ready, hit_at_random(ready, chance, hit))


def killed_when(study, condition):
    """Kill the jobs as soon as something is so, which ends the run; false where it came late."""
    process = study.start()
    try:
        reached = wait_for(condition, process)
        for each in study.jobs(process) if reached else []:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait(900)
    finally:
        end(process)
    return reached


def test_answers_that_a_dying_backend_has_finished_are_kept(ready, chance, same):
    everything = len(lines(ready))
    for _ in range(TRIES):
        ready.forget_answers()
        some = chance.randrange(1, everything - 1)
        assert killed_when(ready, lambda some=some: len(lines(ready)) >= some)
        finished = lines(ready)
        assert some <= len(finished) < everything, "the job was not killed half-way"
        ready.finish()
        # Answers are appended, so those that were there stand first, and none is there twice.
        assert lines(ready)[: len(finished)] == finished
        assert len({json.loads(line)["key"] for line in lines(ready)}) == len(lines(ready))
        assert len(lines(ready)) == everything
        same("kill -9 of a generation backend", ready, f"after {len(finished)} of {everything}")


def lines(study):
    """The whole lines of the store of answers."""
    text = "".join(path.read_text() for path in study.results.glob("llama/answers/**/*.jsonl"))
    return text.splitlines()[: text.count("\n")]


def test_a_training_goes_on_after_its_last_epoch(ready, chance, same):
    state = ready.results / f"{EXPERT}.state"
    log = ready.folder / "logs/tiny/decoder/llama/trained/seed~0.log"
    for spoilt in (False, True):
        ready.forget(EXPERT)
        ready.forget_answers()
        assert killed_when(ready, lambda: list(state.glob("checkpoint-*/digests.json")))
        (checkpoint,) = (path.parent for path in state.glob("checkpoint-*/digests.json"))
        if spoilt:
            damage(checkpoint / "model.safetensors", "bit", chance)
        ready.finish()
        assert ("resuming from" in log.read_text()) is not spoilt
        assert ("is incomplete or damaged" in log.read_text()) is spoilt
        went_on = "its checkpoint is damaged, starts over" if spoilt else "goes on after an epoch"
        same("kill -9 of a fine-tuning", ready, went_on)


@pytest.mark.parametrize("name", ["base", "experts/ready/seed~0"])
def test_any_file_of_a_model_that_is_damaged_is_noticed(ready, chance, same, name):
    folder = ready.results / "llama" / name
    for _ in range(TRIES):
        ready.forget_answers()
        path, how = chance.choice(
            [
                (folder / "model.safetensors", "bit"),
                (folder / "model.safetensors", "cut"),
                (folder / "config.json", "bit"),
                (folder / "tokenizer.json", "cut"),
                (folder / "manifest.json", "cut"),
            ]
        )
        damage(path, how, chance)
        assert ready.put_aside(f"llama/{name}") in ready.fail()
        ready.finish()
        same(f"damaged {name}", ready, f"{path.name}, {how}")


def test_a_download_cut_in_the_middle_is_made_again(ready, index, chance, same):
    for _ in range(TRIES):
        ready.forget_answers()
        ready.forget("sources/data~llama~trained.json", "llama/instructions", EXPERT)
        shutil.rmtree(ready.folder / "cache" / "pypi")
        index.cuts = [chance.randrange(1, len(index.archive))]
        cut = index.cuts[0]
        assert f"connection ended after {cut} of {len(index.archive)} bytes" in ready.fail()
        ready.finish()
        same("download cut in the middle", ready, f"after {cut} of {len(index.archive)} bytes")


def test_a_damaged_entry_of_the_cache_is_fetched_again(ready, chance, same):
    for _ in range(TRIES):
        ready.forget_answers()
        ready.forget("llama/instructions", EXPERT)
        (rows,) = ready.folder.glob("cache/pypi/*/content/data/rows.jsonl")
        how = chance.choice(["bit", "cut"])
        damage(rows, how, chance)
        ready.finish()
        same("damaged entry of the cache", ready, how)


def test_a_full_disk_spoils_nothing(make, small_disk, whole, chance, same):
    study = make(small_disk(1_000_000))
    study.copy_from(whole)
    for _ in range(TRIES):
        study.forget(EXPERT)
        study.forget_answers()
        used = shutil.disk_usage(study.folder / "results").used // 1024
        room = chance.randrange(4, 1000)
        small_disk(used + room)
        study.fail()
        small_disk(1_000_000)
        study.finish()
        same("full disk", study, f"after {room} KB")
