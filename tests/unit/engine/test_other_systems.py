"""Merging on systems that lack what only Linux has."""

import math
import os

import small_models

from mergegrid.api import job_of, run_job
from mergegrid.engine import memory
from mergegrid.engine.budget import processors


def test_a_merge_is_the_same_without_what_only_linux_has(tmp_path, monkeypatch):
    recipe = small_models.recipe(small_models.family(tmp_path))
    run_job(job_of(recipe, tmp_path / "linux"))
    for name in ("sched_getaffinity", "posix_fadvise", "posix_fallocate", "POSIX_FADV_DONTNEED"):
        monkeypatch.delattr(os, name, raising=False)
    nowhere = tmp_path / "nowhere"
    for name in ("_STATUS", "_MEMORY", "_GROUPS"):
        monkeypatch.setattr(memory, name, nowhere)
    assert processors() == os.cpu_count()
    assert memory.resident() > 10_000_000
    run_job(job_of(recipe, tmp_path / "elsewhere"))
    one, other = (tmp_path / name / "model.safetensors" for name in ("linux", "elsewhere"))
    assert one.read_bytes() == other.read_bytes()


def test_memory_that_no_system_tells_of_is_taken_for_enough(tmp_path, monkeypatch):
    assert memory.available() < math.inf
    for name in ("_MEMORY", "_GROUPS"):
        monkeypatch.setattr(memory, name, tmp_path / "nowhere")
    monkeypatch.setattr(memory, "limits", lambda *_: iter(()))
    assert memory.available() == math.inf
