"""What `snakemake_compat` expects of Snakemake, in runs of a small workflow."""

import fcntl
import json
import os
import subprocess
import sys

import pytest

SNAKEFILE = """
import json
from mergegrid.study.runtime import snakemake_compat as compat

HELD = compat.hold_folder(workflow)
known = {
    "config files": list(map(str, compat.config_files(workflow, "default.yaml"))),
    "main": compat.is_main(workflow),
    "rules": str(compat.folder_of_rules(workflow)),
    "cores": compat.cores_of(workflow),
    "gpu": compat.limit_of(workflow, "gpu"),
    "cpus_per_gpu": compat.default_resource(workflow, "cpus_per_gpu"),
}
compat.set_limit(workflow, "places", 1)


onstart:
    compat.record_place(workflow)
    compat.start_jobs_without_limit(workflow)
    known["limits"] = compat.limit_of(workflow, "places"), workflow.scheduler.resources["places"]
    known["here"] = compat.runs_here(workflow)
    known["log"] = Path(compat.log_file(workflow)).is_file()
    known["handlers"] = compat.log_handlers(workflow)
    known["memory"] = compat.requested_memory(workflow, ["small", "large"])
    Path("known.json").write_text(json.dumps(known))


onsuccess:
    ran = {name: compat.ran(workflow, name) for name in ("all", "decided_by_inputs")}
    Path("ran.json").write_text(json.dumps(ran))


rule all:
    input:
        expand("{name}.txt", name=["one", "two"]),


rule make:
    output:
        "{family}.txt",
    resources:
        places=1,
        mem_mb=lambda wildcards, attempt: len(wildcards.family) * 100 * attempt,
    shell:
        "test ! -e busy && touch busy && sleep 0.2 && rm busy && touch {output}"


rule decided_by_inputs:
    input:
        "one.txt",
    output:
        "other.txt",
    resources:
        mem_mb=lambda wildcards, input: input.size_mb,
    shell:
        "touch {output}"
"""


@pytest.fixture
def run(tmp_path):
    """Runs Snakemake in a folder; what it printed."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "some.yaml").write_text("key: value\n")

    def run(*arguments):
        result = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.stdout

    return run


def test_a_run_knows_its_settings_limits_and_requests(run, tmp_path):
    arguments = ["--resources", "gpu=3", "--configfile", "some.yaml", "--verbose"]
    printed = run(*arguments, "--default-resources", "cpus_per_gpu=5")
    assert json.loads((tmp_path / "known.json").read_text()) == {
        "config files": [str(tmp_path / "some.yaml")],
        "main": True,
        "rules": str(tmp_path),
        "cores": 2,
        "gpu": 3,
        "cpus_per_gpu": 5,
        # Two jobs at once would find the file of the other.
        "limits": [1, 1],
        "here": True,
        "log": True,
        "handlers": [],
        "memory": {"all": None, "make": 500, "decided_by_inputs": None},
    }, printed
    assert json.loads((tmp_path / "ran.json").read_text()) == {
        "all": True,
        "decided_by_inputs": False,
    }
    assert not (tmp_path / "busy").exists()
    assert (tmp_path / "two.txt").exists()
    assert "Submitting maximum" in printed, "Snakemake has no limit on starting jobs any more"


def test_without_options_there_are_no_limits_and_the_default_configuration(run, tmp_path):
    printed = run()
    known = json.loads((tmp_path / "known.json").read_text())
    assert (known["gpu"], known["cpus_per_gpu"]) == (None, None), printed
    assert known["config files"] == ["default.yaml"]


def test_an_expression_for_cpus_per_gpu_is_refused(run):
    printed = run("--default-resources", "cpus_per_gpu=attempt * 2")
    assert "cpus_per_gpu in the default resources must be a number" in printed


@pytest.mark.parametrize(
    ("last", "alive", "removed"),
    [
        (f"{os.uname().nodename} local", False, True),
        (f"{os.uname().nodename} local", True, False),
        (f"{os.uname().nodename} cluster", False, False),
        ("another-machine local", False, False),
    ],
)
def test_locks_of_a_killed_run_are_removed_where_no_run_can_be_alive(
    run, tmp_path, last, alive, removed
):
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("two.txt\n")
    record = tmp_path / ".snakemake" / "mergegrid.lock"
    record.write_text(last)
    with record.open() as other:
        if alive:
            fcntl.flock(other, fcntl.LOCK_SH)
        printed = run("two.txt")
    assert (tmp_path / "two.txt").exists() == removed, printed
    assert ("LockException" in printed) != removed
    assert ("of a run that was killed" in printed) == removed
