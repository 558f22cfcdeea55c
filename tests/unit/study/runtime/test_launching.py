"""The command that `mergegrid run` starts, and where it finds the project's files."""

import os
import sys

import pytest
from typer.testing import CliRunner

from mergegrid.cli import app
from mergegrid.errors import ConfigError
from mergegrid.study.runtime.launching import (
    RunOptions,
    default_study,
    snakemake_command,
    study_files,
)
from mergegrid.study.runtime.project_files import project_folder, shipped_studies


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def after_the_start(study, **options):
    root = project_folder()
    command = snakemake_command([study], RunOptions(**options))
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    assert command[:7] == [*start, "--configfile", str(study)]
    return command[7:]


def test_all_cores_are_used_unless_the_options_say_otherwise(folder):
    study = folder / "study.yaml"
    assert after_the_start(study) == ["--cores", "all"]
    assert after_the_start(study, cores="2", resources=["gpu=8", "merged_models=4"]) == [
        *("--cores", "2", "--resources", "gpu=8", "merged_models=4")
    ]
    for words in (["-c", "3"], ["--cores=3"], ["--jobs", "5"], ["--executor", "slurm"]):
        assert after_the_start(study, snakemake=words) == words
    assert after_the_start(study, snakemake=["-n"]) == ["--cores", "all", "-n"]


def test_a_profile_is_that_of_the_folder_before_that_of_the_package(folder):
    study = folder / "study.yaml"
    shipped = str(project_folder() / "profiles" / "slurm")
    assert after_the_start(study, profile="slurm") == ["--profile", shipped]
    (folder / "profiles" / "slurm").mkdir(parents=True)
    assert after_the_start(study, profile="slurm") == ["--profile", "profiles/slurm"]
    assert after_the_start(study, profile="elsewhere") == ["--profile", "elsewhere"]


def test_the_study_of_a_folder_is_found(folder):
    with pytest.raises(ConfigError, match=r"neither study.yaml nor config/config.yaml.* init"):
        default_study()
    (folder / "config").mkdir()
    (folder / "config" / "config.yaml").touch()
    assert [str(path) for path in study_files([])] == ["config/config.yaml"]
    (folder / "study.yaml").touch()
    assert [str(path) for path in study_files([])] == ["study.yaml"]


def test_shipped_studies_have_names():
    assert study_files(["smoke"]) == [project_folder() / "config" / "smoke.yaml"]
    assert [path.name for path in study_files(["quickstart"])] == ["config.yaml"]
    assert shipped_studies()[0] == "quickstart"
    with pytest.raises(ConfigError, match=r"no file .*/smok; .* quickstart, .*smoke"):
        study_files(["smok"])


def test_a_study_may_have_several_files(folder, monkeypatch):
    (folder / "more.yaml").touch()
    (folder / "words.yaml").touch()
    started = []
    monkeypatch.setattr(
        os, "execve", lambda _, command, variables: started.append((command, variables))
    )
    result = CliRunner().invoke(
        app, ["run", "smoke", "more.yaml", "words.yaml", "target", "--cores", "1", "--", "-n"]
    )
    assert result.exit_code == 0, result.output
    ((command, variables),) = started
    files = [*map(str, study_files(["smoke"])), "more.yaml", "words.yaml"]
    assert command[6:] == [*files, "--cores", "1", "target", "-n"]
    assert variables["MERGEGRID_STUDY"] == "smoke more.yaml words.yaml"
