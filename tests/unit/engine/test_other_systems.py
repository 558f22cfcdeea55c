"""Merging on systems that lack what only Linux has."""

import ctypes
import math
import os

import plain_models

from mergegrid import Dare, TaskArithmetic, merge
from mergegrid.engine import memory
from mergegrid.engine.budget import processors


def test_a_merge_is_the_same_without_what_only_linux_has(tmp_path, monkeypatch):
    models = plain_models.family(tmp_path / "models")

    def merged(name):
        experts = {expert: models / expert for expert in ("math", "code")}
        settings = Dare(rate=0.9, seed=1), TaskArithmetic(coefficient=0.5)
        folder = merge(models / "base", experts, *settings, out=tmp_path / name)
        return (folder / "model.safetensors").read_bytes()

    on_linux = merged("linux")
    for name in ("sched_getaffinity", "posix_fadvise", "posix_fallocate", "POSIX_FADV_DONTNEED"):
        monkeypatch.delattr(os, name, raising=False)
    # A C library without fallocate.
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    nowhere = tmp_path / "nowhere"
    for name in ("_STATUS", "_MEMORY", "_GROUPS"):
        monkeypatch.setattr(memory, name, nowhere)
    assert processors() == os.cpu_count()
    assert memory.resident() > 10_000_000
    assert merged("elsewhere") == on_linux


def test_memory_that_no_system_tells_of_is_taken_for_enough(tmp_path, monkeypatch):
    assert memory.available() < math.inf
    for name in ("_MEMORY", "_GROUPS"):
        monkeypatch.setattr(memory, name, tmp_path / "nowhere")
    monkeypatch.setattr(memory, "limits", lambda *_: iter(()))
    assert memory.available() == math.inf
