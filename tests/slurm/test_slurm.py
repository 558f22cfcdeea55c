"""The smoke study on a real SLURM of one node, through the profile as it is."""

import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import yaml
from cluster import MEMORY, NODE, cluster, missing
from project import REPOSITORY, Project

CONFIG = "config/smoke.yaml"
PROFILE = ("--profile", "profiles/slurm")
#: In MB: less than a merge needs, but not less than a third of it.
TIGHT = 800
#: For jobs of seconds and a disk of our own.
QUICK = ("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "10")
ON_GPUS = {"expert", "sweep", "merges"}
RESULTS = "results/smoke"
#: What is compared with a local run, which makes no more than this.
COMPARED = ["scores.parquet", "tables/drop_rates_wide.csv", "tables/merges_wide.tex"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The smoke study as local jobs and as jobs of SLURM, and what SLURM knows of these."""
    if reason := missing():
        pytest.fail(reason)
    folder = tmp_path_factory.mktemp("slurm")
    local, project = Project(folder / "local", CONFIG), Project(folder / "project", CONFIG)
    memory = ("--set-resources", f"merges:mem_mb=attempt * {TIGHT}")
    with (
        ThreadPoolExecutor() as pool,
        pytest.MonkeyPatch.context() as patch,
        cluster(folder / "cluster") as environment,
    ):
        targets = [f"{RESULTS}/{name}" for name in COMPARED]
        locally = pool.submit(local.snakemake, "--cores", "1", "--", *targets)
        for name, value in {**environment, "MERGEGRID_DEVICE": "cpu"}.items():
            patch.setenv(name, value)
        printed = project.snakemake(*PROFILE, *QUICK, *memory)
        again = project.snakemake(*PROFILE, *QUICK, *memory)
        jobs, steps = sacct("-X"), sacct()
        locally.result()
    return SimpleNamespace(
        local=local.folder / RESULTS,
        slurm=project.folder / RESULTS,
        printed=printed,
        again=again,
        jobs=[job for job in jobs if "rule_" in job["Comment"]],
        out_of_memory={step["JobID"] for step in steps if step["State"] == "OUT_OF_MEMORY"},
        seen=[line.split() for line in (folder / "cluster/log/devices").read_text().splitlines()],
    )


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project", CONFIG)


def sacct(*options):
    """Jobs and their steps as the accounting of SLURM has them."""
    fields = ["JobID", "State", "ReqMem", "AllocTRES", "Comment"]
    command = ["sacct", "--noheader", "--parsable2", *options, f"--format={','.join(fields)}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [dict(zip(fields, line.split("|"), strict=True)) for line in done.stdout.splitlines()]


def rule_of(job):
    return re.match(r"rule_(\w+?)(_wildcards_|$)", job["Comment"])[1]


@pytest.mark.parametrize("name", COMPARED)
def test_scores_and_tables_are_those_of_a_local_run_to_the_byte(runs, name):
    assert (runs.slurm / name).read_bytes() == (runs.local / name).read_bytes()


def test_a_second_run_submits_nothing(runs):
    assert "Nothing to be done" in runs.again


def test_costly_rules_are_jobs_and_cheap_ones_run_beside_snakemake(runs):
    passed = Counter(rule_of(job) for job in runs.jobs if job["State"] == "COMPLETED")
    expected = {"import_base": 1, "expert": 2, "deltas": 2, "sweep": 2, "merges": 1}
    assert {rule: passed[rule] for rule in expected} == expected
    assert not {rule_of(job) for job in runs.jobs} & {"fetch", "prepare", "scores", "table"}


def test_jobs_hold_one_gpu_each_and_jobs_at_one_time_hold_different_ones(runs):
    seen = {}
    for job, *devices in runs.seen:
        seen.setdefault(job, set()).update(devices)
    for job in runs.jobs:
        on_gpu = rule_of(job) in ON_GPUS
        assert ("gres/gpu=1" in job["AllocTRES"]) == on_gpu, job
        assert len(seen[job["JobID"]]) == on_gpu, job
    first, second = (seen[job["JobID"]] for job in runs.jobs if rule_of(job) == "expert")
    assert first != second
    assert first | second <= set(map(str, range(8)))
    # The jobs themselves know of them, so that they do not compute on the CPU.
    for rule in ON_GPUS:
        given = set.union(*(seen[job["JobID"]] for job in runs.jobs if rule_of(job) == rule))
        logs = list((runs.slurm.parents[1] / "logs" / "smoke" / rule).rglob("*.log"))
        noted = [re.search(r"GPUs that SLURM gave: (\S+)", log.read_text()) for log in logs]
        assert noted
        assert all(each is not None and each[1] in given for each in noted), rule


def test_a_job_killed_for_memory_passes_with_more(runs):
    tries = [job for job in runs.jobs if rule_of(job) == "merges"]
    *killed, passed = tries
    asked = [f"{TIGHT * attempt}M" for attempt in range(1, len(tries) + 1)]
    assert [job["ReqMem"] for job in tries] == asked
    assert killed
    assert {f"{job['JobID']}.0" for job in killed} <= runs.out_of_memory
    assert passed["State"] == "COMPLETED"
    assert runs.printed.count("Trying to restart job") == len(killed)


def test_nothing_of_the_cluster_is_left(runs):
    listed = subprocess.run(["ps", "-eo", "comm,args"], check=True, capture_output=True, text=True)
    folder = str(runs.slurm.parents[2])
    assert folder not in listed.stdout
    assert not (MEMORY / f"slurm_{NODE}").exists()


def test_both_profiles_agree_on_what_both_say():
    read = [
        yaml.safe_load((REPOSITORY / "profiles" / name / "profile.yaml").read_text())
        for name in ("default", "slurm")
    ]
    default, slurm = read
    assert {key: slurm[key] for key in default.keys() & slurm.keys()} == {
        key: default[key] for key in default.keys() & slurm.keys()
    }
    assert not default.keys() - slurm.keys()


@pytest.mark.parametrize(
    ("arguments", "gpus"),
    [
        (PROFILE, 1),
        (("--workflow-profile", "profiles/slurm"), 1),
        ((*PROFILE, "--resources", "gpu=2", "merged_models=2"), 1),
        # A map on the command line replaces that of the profile, the GPUs included.
        ((*PROFILE, "--resources", "merged_models=2"), 0),
    ],
)
def test_experts_ask_for_a_gpu_when_the_run_has_some(project, arguments, gpus):
    printed = project.snakemake("--dry-run", *arguments)
    asked = re.findall(r"^rule expert:.*?^    resources: (.*?)$", printed, re.DOTALL | re.MULTILINE)
    assert len(asked) == 2
    assert all(f"gpu={gpus}" in resources.split(", ") for resources in asked)
