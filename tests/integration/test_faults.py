"""Killed processes and full disks: what is at the output is whole, or it is not there."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import family, manifest, recipe

from mergegrid.checkpoints.publish import publish
from mergegrid.errors import CheckpointError

SEED = int(os.environ.get("KILL_SEED", "20231106"))
KILLS = 10


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base and two experts of 128 MB each: merging them takes about a second."""
    folder = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(0)
    base = {f"model.layers.{n}.w.weight": _normal(generator, 0.02) for n in range(8)}
    for name in ("base", "math", "code"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
        moved = {key: each + _normal(generator, 0.001) for key, each in base.items()}
        save_file(base if name == "base" else moved, folder / name / "model.safetensors")
    yield folder
    shutil.rmtree(folder)


def _normal(generator, scale):
    return generator.standard_normal((2048, 2048), np.float32) * np.float32(scale)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def digests(folder):
    return manifest(folder)["weights"]


def peak_memory(process):
    """The most memory that a process held until it ended, in MB."""
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *map(int, re.findall(r"VmHWM:\s*(\d+)", status))])
        time.sleep(0.005)
    return peak * 1024 / 1e6


FISHER = {
    "sparsifier": {"kind": "dare", "rate": [0.0, 0.3, 0.5, 0.7, 0.9], "seed": 1},
    "method": {"kind": "fisher"},
    # What is weighted by what does not matter here.
    "statistics": {name: f"{name}/model.safetensors" for name in ("math", "code")},
}


@pytest.mark.parametrize("changes", [{}, FISHER], ids=["one recipe", "statistics, five rates"])
def test_memory_stays_below_what_the_plan_says(large, start, tmp_path, changes):
    process = start(
        "merge", recipe(large, "peak.yaml", **changes), tmp_path / "out", "--threads", 4
    )
    peak = peak_memory(process)
    assert process.returncode == 0, process.stderr.read()
    assert 50 < peak < int(re.search(r"at most (\d+) MB", process.stderr.read())[1])


@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"seed {seed}")
@pytest.mark.parametrize("replaces", [False, True], ids=["first", "replacing"])
def test_killed_at_any_moment_the_same_command_finishes_with_the_same_bytes(
    large, start, run, execute, tmp_path, replaces, seed
):
    asked = recipe(large)
    began = time.monotonic()
    assert execute("merge", asked, tmp_path / "whole").code == 0
    duration = time.monotonic() - began
    whole = digests(tmp_path / "whole")
    place = tmp_path / "place"
    place.mkdir()
    allowed = [whole]
    if replaces:
        other = recipe(large, "other.yaml", sparsifier={"kind": "dare", "rate": 0.5, "seed": 2})
        assert run("merge", other, place / "out").code == 0
        allowed.append(digests(place / "out"))
    chance = random.Random(seed)
    reached = 0
    for _ in range(KILLS // 2):
        process = start("merge", asked, place / "out")
        _wait_for(place / ".out.draft" / "model.safetensors", process)
        # What is left after imports takes about half of the time; some kills come too late.
        time.sleep(chance.uniform(0, duration / 2))
        process.kill()
        reached += process.wait() == -9
        if (place / "out").exists():
            assert run("inspect", place / "out").code == 0
            assert digests(place / "out") in allowed
        elif replaces:
            # Killed between the two renames.
            assert (place / ".out.previous").exists()
    assert reached, "no process was killed before it had finished; take a larger model"
    assert execute("merge", asked, place / "out").code == 0
    assert digests(place / "out") == whole
    assert run("inspect", place / "out").code == 0
    assert names(place) == ["out"]


def _wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_clears_up(large, start, tmp_path, number):
    process = start("merge", recipe(large), tmp_path / "out")
    _wait_for(tmp_path / ".out.draft" / "model.safetensors", process)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (128 + number, "")
    assert "Traceback" not in err
    assert names(tmp_path) == []


def test_the_second_of_two_processes_on_one_output_is_refused(large, start, execute, tmp_path):
    asked = recipe(large)
    first = start("merge", asked, tmp_path / "out")
    _wait_for(tmp_path / ".out.draft" / "model.safetensors", first)
    first.send_signal(signal.SIGSTOP)
    second = execute("merge", asked, tmp_path / "out")
    assert second.code == 2
    assert f"error: {tmp_path / 'out'} is being written by another process" in second.err
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert names(tmp_path) == ["out"]


def test_what_a_process_killed_between_the_renames_left_is_put_back(tmp_path):
    out = tmp_path / "out"
    with publish(out, {}) as draft:
        (draft / "text").write_text("first")
    out.rename(tmp_path / ".out.previous")
    with pytest.raises(ValueError, match="broken"), publish(out, {}):
        raise ValueError("broken")
    assert (out / "text").read_text() == "first"
    assert names(tmp_path) == ["out"]


def test_a_lock_that_was_let_go_of_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """Another process publishes between the moments when the lock is opened and taken."""
    import mergegrid.checkpoints.publish as module

    lock, out = module.fcntl.flock, tmp_path / "out"
    taken = []

    def late(descriptor, operation):
        taken.append(os.fstat(descriptor).st_ino)
        if len(taken) == 1:
            (tmp_path / ".out.lock").rename(tmp_path / "old")
        lock(descriptor, operation)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with publish(out, {}) as draft:
        (draft / "text").write_text("mine")
        assert taken == [(tmp_path / each).stat().st_ino for each in ("old", ".out.lock")]
    assert names(tmp_path) == ["old", "out"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return family(tmp_path_factory.mktemp("small"))


def test_a_disk_without_room_for_the_weights_is_found_out_at_once(small, run, small_disk):
    disk = small_disk(64)
    outcome = run("merge", recipe(small), disk / "out")
    assert outcome.code == 2
    wrong = r"error: the disk of \S+ has 65\.5 KB free, but \S+ KB are needed: \S+ KB in \S+out; "
    assert re.search(wrong + "free some space, or choose another output path", outcome.err)
    assert names(disk) == []


def test_a_disk_that_fills_anywhere_leaves_nothing_and_spoils_nothing(small, run, small_disk):
    """Sizes from too small for the weights to large enough, page by page."""
    disk = small_disk(4)
    asked = recipe(small)
    failures = 0
    for pages in range(30, 90):
        small_disk(4 * pages)
        outcome = run("merge", asked, disk / "out")
        if outcome.code == 0:
            break
        failures += 1
        assert outcome.code == 2
        last = outcome.err.splitlines()[-1]
        full = r"(cannot be written.*No space left on device|[KM]B are needed)"
        assert re.match(rf"error: .*{full}.*free some space", last)
        assert names(disk) == []
    assert failures > 5
    before = digests(disk / "out")
    # The disk now has no room for a second one, which would replace the first.
    assert run("merge", asked, disk / "out").code == 2
    assert run("inspect", disk / "out").code == 0
    assert (digests(disk / "out"), names(disk)) == (before, ["out"])


def test_a_disk_without_inodes_is_a_full_disk(small, run, small_disk):
    disk = small_disk(4096, "nr_inodes=4")
    outcome = run("merge", recipe(small), disk / "out")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err.splitlines()[-1]
    assert names(disk) == []


def test_a_mount_point_is_refused_before_any_work(small, run, small_disk):
    disk = small_disk(4096)
    outcome = run("merge", recipe(small), disk)
    assert outcome.err == (
        f"error: {disk} is a mount point and cannot be replaced; choose a folder inside it\n"
    )


def test_errors_of_the_disk_name_the_folder(tmp_path):
    wrong = r"out cannot be written: .*Is a directory"
    with pytest.raises(CheckpointError, match=wrong), publish(tmp_path / "out", {}) as draft:
        (draft / "manifest.json").mkdir()
    assert names(tmp_path) == []
