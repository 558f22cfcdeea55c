"""What every job does first, with a Snakemake that is but its attributes."""

import errno
import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mergegrid.checkpoints.publish import publish
from mergegrid.errors import DamagedError

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "_job.py"


@pytest.fixture
def module(monkeypatch):
    spec = importlib.util.spec_from_file_location("_job", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    # It would end these tests with a Snakemake that runs them.
    monkeypatch.setattr(found, "_end_with_snakemake", lambda: None)
    return found


@pytest.fixture
def expert(tmp_path):
    with publish(tmp_path / "expert", {}) as draft:
        (draft / "config.json").write_text("{}")
    return tmp_path / "expert"


def snakemake(tmp_path, *inputs):
    log = [str(tmp_path / "job.log")]
    return SimpleNamespace(
        rule="merge", log=log, input=list(map(str, inputs)), output=[], resources={}
    )


def test_a_job_starts_with_whole_folders_and_with_files(module, expert, tmp_path):
    ran = []
    with module.job(snakemake(tmp_path, expert, tmp_path / "examples.parquet")):
        ran.append(True)
    assert ran


def test_what_a_job_made_is_on_the_disk_when_it_ends(module, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: found.append(Path(f"/proc/self/fd/{fd}").readlink())
    )
    asked = snakemake(tmp_path)
    table, folder, absent = (tmp_path / name for name in ("table/scores", "folder", "absent"))
    asked.output = list(map(str, (table, folder, absent)))
    with module.job(asked):
        for path in (table, folder / "log"):
            path.parent.mkdir()
            path.touch()
        assert not found
    expected = [table, folder / "log", folder, table.parent, tmp_path]
    assert sorted(found) == sorted(expected)


def test_a_damaged_folder_is_put_aside_before_the_work(module, expert, tmp_path):
    aside = tmp_path / "expert.damaged"
    aside.mkdir()
    (aside / "older").touch()
    (expert / "config.json").write_text("[]")
    with pytest.raises(SystemExit) as ended, module.job(snakemake(tmp_path, expert)):
        pytest.fail("the job began")
    assert str(ended.value) == (
        f"merge: {expert / 'config.json'} is not what manifest.json says; make the model again: "
        f"it is now {aside}, and the same command makes it again"
    )
    assert not expert.exists()
    assert sorted(path.name for path in aside.iterdir()) == ["config.json", "manifest.json"]
    assert "is now" in (tmp_path / "job.log").read_text()


def test_of_two_jobs_that_find_the_damage_the_second_leaves_what_the_first_put_aside(
    module, expert, tmp_path
):
    said = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended, module.job(snakemake(tmp_path, expert)):
            raise DamagedError(expert, "damaged")
        said.append(str(ended.value))
    aside = tmp_path / "expert.damaged"
    assert (aside / "config.json").read_text() == "{}"
    assert said == [f"merge: damaged: it is now {aside}, and the same command makes it again"] * 2


def test_a_folder_that_cannot_be_read_just_now_stays(module, expert, tmp_path, monkeypatch):
    def stale(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("mergegrid.checkpoints.publish.file_digest", stale)
    with (
        pytest.raises(SystemExit, match="Stale file handle"),
        module.job(snakemake(tmp_path, expert)),
    ):
        pytest.fail("the job began")
    assert (expert / "manifest.json").is_file()
    assert not (tmp_path / "expert.damaged").exists()


def test_damage_that_the_work_finds_is_put_aside_where_it_is_an_input(module, expert, tmp_path):
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for folder in (stranger, expert):
        with pytest.raises(SystemExit), module.job(snakemake(tmp_path, expert)):
            raise DamagedError(folder, "damaged")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "expert.damaged",
        "stranger",
    ]
