"""What is on the disk when, seen by every call of `fsync`."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.publish import publish
from mergegrid.checkpoints.sources import cache
from mergegrid.fsync import sync_tree
from mergegrid.study.decoders.importing import write_weights


@pytest.fixture
def events(monkeypatch):
    """What was brought to the disk, and what was renamed to what, in order."""
    found = []
    fsync, replace = os.fsync, Path.replace

    def seen(descriptor):
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def renamed(path, target):
        found.append((path, Path(target)))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(Path, "replace", renamed)
    return found


@pytest.fixture
def job(monkeypatch):
    """What every script of the workflow runs in."""
    monkeypatch.delenv("MERGEGRID_SNAKEMAKE", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "workflow" / "scripts"))
    from _job import job

    return job


def snakemake(folder, *outputs):
    log = [str(folder / "job.log")]
    return SimpleNamespace(rule="merge", log=log, input=[], output=outputs, resources={})


def test_what_a_job_made_is_on_the_disk_when_it_ends(tmp_path, job, events):
    folder, table = tmp_path / "models" / "merged", tmp_path / "scores.csv"
    with job(snakemake(tmp_path, folder, table)):
        with publish(folder, {}) as draft:
            (draft / "config.json").write_text("{}")
            (draft / "task").mkdir()
            (draft / "task" / "vocab.txt").write_text("good")
            write_weights(draft, InMemory({"w": np.ones(8, np.float32)}), "test")
        table.write_text("task,value\n")
        events.clear()
    made = {folder, *folder.rglob("*"), table}
    assert len(made) == 7
    # And then the names of both.
    assert set(events[: len(made)]) == made
    assert set(events[len(made) :]) == {folder.parent, tmp_path}


def test_a_job_on_a_disk_that_fails_at_its_end_fails(tmp_path, job, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    table = tmp_path / "scores.csv"
    with pytest.raises(OSError, match="Input/output error"), job(snakemake(tmp_path, table)):
        table.write_text("task,value\n")


def test_a_file_system_that_cannot_wait_is_no_error(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EINVAL, "cannot")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_tree(tmp_path)


def test_an_unpacked_archive_is_on_the_disk_before_its_name(tmp_path, events):
    def fill(content):
        (content / "a.txt").write_text("a")
        return "origin"

    folder = tmp_path / "entry"
    cache.entry(folder, fill)
    (work, last) = next(
        (each[0], number)
        for number, each in enumerate(events)
        if isinstance(each, tuple) and each[1] == folder
    )
    inside = {work / "content" / "a.txt", work / "content", work / "manifest.json", work}
    assert inside <= {each for each in events[:last] if isinstance(each, Path)}
    assert tmp_path in events[last:]


def test_a_checksum_is_remembered_of_what_is_on_the_disk(tmp_path, events):
    path = tmp_path / "rows.txt"
    path.write_text("rows")
    cache.measure(path, [], tmp_path / "cache")
    assert events[0] == path
    assert isinstance(events[1], tuple)


def test_links_are_left_alone(tmp_path, events):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    sync_tree(tmp_path)
    assert events == [tmp_path]
