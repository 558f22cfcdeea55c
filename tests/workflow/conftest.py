"""The real workflow, run in copies of the project, so that tests may change its files."""

from pathlib import Path

import pytest
from project import Project
from shared_folders import build_once

SMOKE = "config/smoke.yaml"
PRINTED = "printed.txt"
FULL_LOG = "full.log"


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke study, run to its end. Only to be read: see `smoke_copy`."""

    def build(folder: Path) -> None:
        project = Project(folder, SMOKE)
        (folder / PRINTED).write_text(project.snakemake("--cores", "2"))
        (folder / FULL_LOG).write_text(project.full_log())

    return Project.open(build_once(tmp_path_factory, "smoke", build), SMOKE)


@pytest.fixture(scope="session")
def first_run(smoke: Project) -> str:
    """What Snakemake logged when it ran the smoke study."""
    return (smoke.folder / FULL_LOG).read_text()


@pytest.fixture(scope="session")
def shown(smoke: Project) -> str:
    """What a person saw of that run, in a log file."""
    return (smoke.folder / PRINTED).read_text()


@pytest.fixture
def smoke_copy(smoke: Project, tmp_path: Path) -> Project:
    """The finished smoke study, for a test to change and to run."""
    return smoke.copy(tmp_path / "smoke")


@pytest.fixture
def project(tmp_path: Path):
    """A fresh copy of the project, for any configuration."""

    def make(config: str) -> Project:
        return Project(tmp_path / "project", config)

    return make
