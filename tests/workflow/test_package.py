"""The package that a wheel installs contains the workflow, and runs it from any folder."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import job_counts

pytest.importorskip("setuptools")
ROOT = Path(__file__).parents[2]
#: What a build of the wheel needs besides the parts that setup.py names.
NEEDED = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src")


@pytest.fixture(scope="module")
def parts():
    namespace = runpy.run_path(str(ROOT / "setup.py"), run_name="read")
    return namespace["PARTS"]


@pytest.fixture(scope="module")
def package(parts, tmp_path_factory):
    """A folder with the packages of a wheel."""
    place = tmp_path_factory.mktemp("build")
    (place / "source").mkdir()
    for name in (*NEEDED, *parts):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, place / "source" / name)
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(place / "lib")]
    subprocess.run(command, cwd=place / "source", check=True, capture_output=True)
    return place / "lib"


def mergegrid(package, folder, *words):
    """Run a command in a folder, with the package alone; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", "from mergegrid.cli import main; main()", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_package_has_the_parts_as_in_a_clone(package, parts):
    files = package / "mergegrid" / "study" / "project_files"
    assert sorted(path.name for path in files.iterdir()) == sorted(parts)
    for name in ("workflow/Snakefile", "profiles/slurm/profile.yaml", "config/config.schema.json"):
        assert (files / name).read_bytes() == (ROOT / name).read_bytes()
    assert (package / "snakemake_logger_plugin_mergegrid" / "__init__.py").is_file()


def test_a_shipped_study_is_planned_in_an_empty_folder(package, tmp_path):
    printed = mergegrid(package, tmp_path, "run", "smoke", "--dry-run")
    files = package / "mergegrid" / "study" / "project_files"
    assert f"Snakefile: {files}/Snakefile" in printed
    counts = job_counts(printed)
    assert (counts["fetch"], counts["expert"], counts["sweep"]) == (4, 2, 2)
