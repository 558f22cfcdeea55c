"""What every job does first, with a Snakemake that is but its attributes."""

import errno
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import gone, wait_until

from mergegrid.checkpoints.publish import publish
from mergegrid.errors import DamagedError

WORKFLOW = Path(__file__).parents[2] / "workflow"
SCRIPT = WORKFLOW / "scripts" / "_job.py"
WORK = f"""
import os, sys, time
from types import SimpleNamespace
sys.path.insert(0, {str(SCRIPT.parent)!r})
from _job import job

with job(SimpleNamespace(rule="merge", log=["job.log"], input=[], output=[], resources={{}})):
    print(os.getpid(), flush=True)
    time.sleep(60)
"""
#: Stands for Snakemake, which runs jobs through a shell.
PARENT = """
import os, subprocess, sys
os.environ["MERGEGRID_SNAKEMAKE"] = str(os.getpid())
subprocess.run(["sh", "-c", '"$0" -c "$1"; :', sys.executable, sys.argv[1]])
"""
SNAKEFILE = f"""
include: "{WORKFLOW}/rules/common.smk"


rule work:
    output:
        "threads.txt",
    log:
        "job.log",
    script:
        "work.py"
"""
GUARDED = f"""
import sys, threading
sys.path.insert(0, {str(SCRIPT.parent)!r})
from _job import job

with job(snakemake):
    open(snakemake.output[0], "w").write(str(threading.active_count()))
"""


@pytest.fixture
def module(monkeypatch):
    spec = importlib.util.spec_from_file_location("_job", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    # It would end these tests with a Snakemake that runs them.
    monkeypatch.delenv("MERGEGRID_SNAKEMAKE", raising=False)
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
        f"merge: {expert / 'config.json'} does not match manifest.json; rebuild the model: "
        f"it is now {aside}, and the same command rebuilds it"
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
    assert said == [f"merge: damaged: it is now {aside}, and the same command rebuilds it"] * 2


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


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("decoder", "raise finetune.accumulation, set finetune.gradient_checkpointing or finetu"),
        ("generate_llama_math_0", "lower generation.batch_size or generation.max_model_len"),
        ("statistics", "take a GPU with more"),
    ],
)
def test_a_gpu_that_is_too_small_is_one_line_with_the_keys_that_help(module, tmp_path, rule, says):
    job = snakemake(tmp_path)
    job.rule = rule
    with pytest.raises(SystemExit) as raised, module.job(job):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert str(raised.value).startswith(
        f"{rule}: out of GPU memory (CUDA out of memory. Tried to allocate 2.00 GiB): {says}"
    )
    assert "Traceback" in (tmp_path / "job.log").read_text()


def test_where_jobs_share_a_gpu_that_helps_first(module, tmp_path, monkeypatch):
    job = snakemake(tmp_path)
    job.rule, job.params, job.config = "sweep", {}, {"jobs_per_gpu": 4}
    job.resources = {"gpu": 0, "gpu_share": 1}
    asked = []
    monkeypatch.setattr(module, "lease", lambda *words: asked.append(words) or [])
    with (
        pytest.raises(SystemExit, match=r"lower jobs_per_gpu, or take a GPU with"),
        module.job(job),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert asked == [(1, 4)]


def test_what_a_gpu_cannot_repeat_is_said_with_the_way_round(module, tmp_path):
    job = snakemake(tmp_path)
    said = r"x does not have a deterministic implementation\. With MERGEGRID_DETERMINISTIC=warn"
    with pytest.raises(SystemExit, match=said), module.job(job):
        raise RuntimeError("x does not have a deterministic implementation.\nMore")


def test_lm_eval_gets_no_fewer_gpus_than_its_model_needs(module):
    assert module._split_over('{"on_gpus": {"gpus": 2}, "settings": {}}') == 2
    assert module._split_over('{"generation": {"gpus": 4}}') == 4
    assert module._split_over(None) == 1


def test_a_job_ends_with_the_snakemake_that_started_it(tmp_path):
    command = [sys.executable, "-c", PARENT, WORK]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        work = int(parent.stdout.readline())
        assert not gone(work)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: gone(work), 5)
    assert "is gone, so this job ends too" in (tmp_path / "job.log").read_text()


@pytest.mark.parametrize("there", [False, True], ids=["gone", "the number is another's by now"])
def test_a_job_whose_snakemake_is_gone_does_not_begin(tmp_path, there):
    with subprocess.Popen(["sleep", "60"]) as other:
        if not there:
            other.kill()
            other.wait()
        done = subprocess.run(
            [sys.executable, "-c", WORK],
            cwd=tmp_path,
            env={**os.environ, "MERGEGRID_SNAKEMAKE": str(other.pid)},
            capture_output=True,
            text=True,
            timeout=50,
        )
        other.kill()
    said = f"Snakemake (process {other.pid}) is gone, so this job ends too"
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", said)
    assert said in (tmp_path / "job.log").read_text()


def test_the_workflow_leaves_word_of_its_snakemake(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "work.py").write_text(GUARDED)
    config = WORKFLOW.parent / "config" / "smoke.yaml"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    done = subprocess.run(
        [*command, "--", "threads.txt"],
        cwd=tmp_path,
        # That of another run, which this one was started from.
        env={**os.environ, "MERGEGRID_SNAKEMAKE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "threads.txt").read_text() == "2"


@pytest.mark.parametrize("script", ["generate.py", "generate_variants.py"])
def test_a_job_that_vllm_spawns_processes_from_is_not_run_again_in_them(tmp_path, script):
    """As `spawn` does it: the file is run once more, under another name."""
    path = WORKFLOW / "scripts" / script
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(path.parent)!r})\n"
        f"runpy.run_path({str(path)!r}, {{'snakemake': None}}, sys.argv[1])\n"
    )

    def run(name):
        command = [sys.executable, "-c", code, name]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    again = run("__mp_main__")
    assert (again.returncode, again.stderr) == (0, "")
    # Under its own name it would do its work.
    assert "has no attribute 'log'" in run("__main__").stderr


def test_a_job_without_an_optional_library_ends_with_the_extra_that_installs_it(
    module, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "peft", None)
    with (
        pytest.raises(SystemExit, match=r'merge: peft is not installed.*"mergegrid\[study\]"'),
        module.job(snakemake(tmp_path)),
    ):
        import peft  # noqa: F401
