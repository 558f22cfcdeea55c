"""The real workflow, run in a copy of the project, so that tests may change its files."""

import os
from pathlib import Path

import pytest
from project import PARTS, Project


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke study, run to its end."""
    project = Project(tmp_path_factory.mktemp("smoke") / "project", "config/smoke.yaml")
    project.first_run = project.snakemake("--cores", "2")  # type: ignore[attr-defined]
    return project


@pytest.fixture
def edited(smoke: Project):
    """The finished smoke study; what a test changes in its files is undone afterwards."""
    files = {
        path: (path.read_bytes(), path.stat())
        for part in PARTS
        for path in [smoke.folder / part, *(smoke.folder / part).rglob("*")]
        if path.is_file()
    }
    yield smoke
    for path, (content, stat) in files.items():
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def project(tmp_path: Path):
    """A fresh copy, for any configuration."""

    def make(config: str) -> Project:
        return Project(tmp_path / "project", config)

    return make
