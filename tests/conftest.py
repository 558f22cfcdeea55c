"""Which tests are slow, in what order they start, and fixtures for all of them."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from hypothesis import settings
from tiers import is_slow, turn

from mergegrid import stages

#: What the merge engine does without, and is not installed; helpers of tests that need it count
#: with it.
MISSING = {name for name in ("pandas", "scipy", "snakemake", "torch") if not find_spec(name)}
if "torch" in MISSING:
    MISSING |= {"mergegrid.study", "project", "small_models", "transformers"}

# Processors of test machines are shared, so examples have no time limit of their own.
settings.register_profile("quick", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=10_000, deadline=None)
settings.load_profile("quick")


def pytest_addoption(parser):
    parser.addoption(
        "--write-golden",
        nargs="?",
        const="raised",
        default="",
        choices=["raised", "force"],
        help="write golden numbers of raised versions; with =force, all that differ",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what runs studies, jobs and engines as slow; start what takes longest first."""
    for item in items:
        if is_slow(item.path, set(item.fixturenames)):
            item.add_marker("slow")
    items.sort(key=lambda item: turn(item.path))


def pytest_ignore_collect(collection_path):
    """Leave out modules that import what the core of mergegrid does not bring along."""
    if not MISSING or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    names = "|".join(map(re.escape, MISSING))
    return True if re.search(rf"^(?:import|from) (?:{names})\b", text, re.MULTILINE) else None


def pytest_report_header():
    left_out = f"left out: modules that import {', '.join(sorted(MISSING))}"
    return left_out if MISSING else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Let models compute with one thread: they are small, and the processors are shared."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


pytest_plugins = ["small_encoders"]


@pytest.fixture
def raise_version(monkeypatch):
    """Raise the version of a stage by one, in this process: `raise_version("merge")`."""
    raised = {}

    def versions(module):
        found = module_versions(module)
        return {stage: version + raised.get(stage, 0) for stage, version in found.items()}

    module_versions = stages.module_versions
    monkeypatch.setattr(stages, "module_versions", versions)

    def by_one(stage):
        raised[stage] = raised.get(stage, 0) + 1

    return by_one


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a given size in KiB: `small_disk(64)`; again with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *options):
        again = ["remount"] if os.path.ismount(folder) else []
        options = ",".join([*again, f"size={size}k", *options])
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command, so no disk of limited size")
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    while os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)
