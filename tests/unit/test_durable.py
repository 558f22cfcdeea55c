"""What is on the disk when, seen by every call of `fsync`."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.decoders import write_weights
from mergegrid.checkpoints.publish import publish
from mergegrid.checkpoints.sources import cache
from mergegrid.durable import settle
from mergegrid.errors import CheckpointError


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


def make(folder):
    with publish(folder, {}) as draft:
        (draft / "config.json").write_text("{}")
        (draft / "task").mkdir()
        (draft / "task" / "vocab.txt").write_text("good")
        write_weights(draft, InMemory({"w": np.ones(8, np.float32)}), "test")


def test_a_published_folder_is_on_the_disk_before_its_name_and_then_its_name(tmp_path, events):
    folder = tmp_path / "model"
    for _ in range(2):
        events.clear()
        make(folder)
        draft = tmp_path / ".model.draft"
        last = events.index((draft, folder))
        everything = {draft / path.relative_to(folder) for path in folder.rglob("*")}
        assert len(everything) == 5
        assert {draft, *everything} <= {each for each in events[:last] if isinstance(each, Path)}
        assert events[last + 1 :] == [tmp_path]


def test_a_disk_that_fails_at_the_end_leaves_the_folder_of_before(tmp_path, monkeypatch):
    make(tmp_path / "model")

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"model cannot be written: .*Input/output error"):
        make(tmp_path / "model")
    with pytest.raises(CheckpointError, match="other cannot be written"):
        make(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_system_that_cannot_wait_is_no_error(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EINVAL, "cannot")

    monkeypatch.setattr(os, "fsync", refuse)
    make(tmp_path / "model")


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
    settle(tmp_path)
    assert events == [tmp_path]
