"""Studies on a real SLURM of two nodes, through the profile as it is."""

import re
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import yaml
from cluster import GROUPS, NODES, cluster, missing
from project import REPOSITORY, Project
from records import allocated, devices_of_jobs, rule_of, sacct, sbatch_lines, shown, srun_lines
from small_models import family

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
#: The study of a decoder that one engine of two GPUs reads.
SPLIT = "config/split.yaml"
VARIANT = "ready/seed~0/none/average"
#: What its job reads, and what it makes.
READ = [f"results/split/llama/models/{VARIANT}", "results/split/benchmarks/formats.parquet"]
ANSWERS = f"results/split/llama/answers/{VARIANT}.parquet"


def split_study(models):
    questions = {
        "kind": "instructions",
        "generated": {"generator": "instructions", "count": 2, "seed": 0},
        "prompt": "{instruction}",
        "sampling": {"max_tokens": 4},
    }
    expert = {"source": f"path:{models / 'code'}", "licence": "made here"}
    llama = {
        "base": {"source": f"path:{models / 'base'}", "licence": "made here"},
        "experts": {"ready": {"benchmarks": ["formats"], "source": expert}},
    }
    return {
        "paths": {"results": "results/split", "logs": "logs/split"},
        "decoders": {
            "benchmarks": {"formats": questions},
            "families": {"llama": llama},
            "generation": {"gpus": 2, "dtype": "float32"},
        },
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The smoke study as local jobs and as jobs of SLURM, and a job of two GPUs.

    With them, what SLURM knows of the jobs, and how it was called.
    """
    if reason := missing():
        pytest.fail(reason)
    folder = tmp_path_factory.mktemp("slurm")
    local, project = Project(folder / "local", CONFIG), Project(folder / "project", CONFIG)
    # Which means nothing on a cluster: jobs there have GPUs of their own.
    with (project.folder / CONFIG).open("a") as config:
        config.write("\njobs_per_gpu: 2\n")
    split = Project(folder / "split", SPLIT)
    (split.folder / SPLIT).write_text(yaml.safe_dump(split_study(family(folder / "models"))))
    memory = ("--set-resources", f"merges:mem_mb=attempt * {TIGHT}")
    targets = [f"{RESULTS}/{name}" for name in COMPARED]

    def locally():
        local.snakemake("--cores", "1", "--", *targets)
        split.snakemake("--cores", "1", "--notemp", "--", *READ)

    with (
        ThreadPoolExecutor() as pool,
        pytest.MonkeyPatch.context() as patch,
        cluster(folder / "cluster") as environment,
    ):
        made = pool.submit(locally)
        for name, value in {**environment, "MERGEGRID_DEVICE": "cpu"}.items():
            patch.setenv(name, value)
        printed = project.snakemake(*PROFILE, *QUICK, *memory)
        again = pool.submit(project.snakemake, *PROFILE, *QUICK, *memory)
        made.result()
        generate = run_between_others(split, pool)
        again.result()
        jobs, steps = [job for job in sacct("-X") if "rule_" in job["Comment"]], sacct()
    logs = folder / "cluster" / "log"
    return SimpleNamespace(
        local=local.folder / RESULTS,
        slurm=project.folder / RESULTS,
        split=split.folder,
        printed=printed,
        again=again.result(),
        generate=generate,
        jobs=[job for job in jobs if rule_of(job["Comment"]) != "generate"],
        generating=[job for job in jobs if rule_of(job["Comment"]) == "generate"],
        steps={step["JobID"]: step for step in steps},
        seen=devices_of_jobs(logs / "devices"),
        sbatch=sbatch_lines(logs / "sbatch.calls"),
        srun=srun_lines(logs / "srun.calls", jobs),
    )


def run_between_others(project, pool):
    """Ask for two GPUs while each node has one left; then free the second node.

    Gives what SLURM said that the job waited for, and what Snakemake printed.
    """
    asked = ["sbatch", "--parsable", "--output=/dev/null", "--gpus=3", "--mem=100"]
    others = [shown(*asked, f"--nodelist={node}", "--wrap=sleep 900").strip() for node in NODES]
    options = (*PROFILE, *QUICK, "--retries", "0")
    run = pool.submit(project.snakemake, *options, "--", ANSWERS, check=False)
    reason = ""
    # None before SLURM has looked at the job, and when it runs.
    while not run.done() and reason in ("", "None"):
        time.sleep(0.5)
        queue = shown("squeue", "--noheader", "--format=%k|%r").splitlines()
        reason = next((job.split("|")[1] for job in queue if job.startswith("rule_")), "")
    shown("scancel", others[1])
    printed = run.result()
    shown("scancel", others[0])
    return SimpleNamespace(waited_for=reason, printed=printed)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project", CONFIG)


@pytest.mark.parametrize("name", COMPARED)
def test_scores_and_tables_are_those_of_a_local_run_to_the_byte(runs, name):
    assert (runs.slurm / name).read_bytes() == (runs.local / name).read_bytes()


def test_a_second_run_submits_nothing(runs):
    assert "Nothing to be done" in runs.again


def test_costly_rules_are_jobs_and_cheap_ones_run_beside_snakemake(runs):
    passed = Counter(rule_of(job["Comment"]) for job in runs.jobs if job["State"] == "COMPLETED")
    expected = {"import_base": 1, "expert": 2, "deltas": 2, "sweep": 2, "merges": 1}
    assert {rule: passed[rule] for rule in expected} == expected
    assert not {rule_of(job["Comment"]) for job in runs.jobs} & {
        "fetch",
        "prepare",
        "scores",
        "table",
    }


def test_jobs_hold_one_gpu_each_and_jobs_at_one_time_hold_different_ones(runs):
    for job in runs.jobs:
        on_gpu = rule_of(job["Comment"]) in ON_GPUS
        assert ("gres/gpu=1" in job["AllocTRES"]) == on_gpu, job
        assert len(runs.seen[job["JobID"]]) == on_gpu, job
    first, second = (
        runs.seen[job["JobID"]] for job in runs.jobs if rule_of(job["Comment"]) == "expert"
    )
    assert first != second
    assert first | second <= {(node, str(number)) for node in NODES for number in range(4)}
    # The jobs themselves know of them, so that they do not compute on the CPU.
    for rule in ON_GPUS:
        own = [job["JobID"] for job in runs.jobs if rule_of(job["Comment"]) == rule]
        given = {number for job in own for _, number in runs.seen[job]}
        logs = list((runs.slurm.parents[1] / "logs" / "smoke" / rule).rglob("*.log"))
        noted = [re.search(r"GPUs assigned by SLURM: (\S+)", log.read_text()) for log in logs]
        assert noted
        assert all(each is not None and each[1] in given for each in noted), rule


def test_a_job_killed_for_memory_passes_with_more(runs):
    tries = [job for job in runs.jobs if rule_of(job["Comment"]) == "merges"]
    *killed, passed = tries
    asked = [f"{TIGHT * attempt}M" for attempt in range(1, len(tries) + 1)]
    assert [job["ReqMem"] for job in tries] == asked
    assert killed
    assert {runs.steps[f"{job['JobID']}.0"]["State"] for job in killed} == {"OUT_OF_MEMORY"}
    assert passed["State"] == "COMPLETED"
    assert runs.printed.count("Trying to restart job") == len(killed)


def test_a_job_of_two_gpus_waits_for_one_node_that_has_both_with_their_cores(runs):
    assert runs.generate.waited_for == "Resources", runs.generate.printed
    (job,) = runs.generating
    assert job["State"] == "COMPLETED", runs.generate.printed
    assert job["NodeList"] == NODES[1]
    for given in (allocated(job), allocated(runs.steps[f"{job['JobID']}.0"])):
        assert (given["node"], given["cpu"], given["gres/gpu"]) == ("1", "16", "2")
    seen = runs.seen[job["JobID"]]
    assert {node for node, _ in seen} == {NODES[1]}
    numbers = ", ".join(sorted(number for _, number in seen))
    log = (runs.split / f"logs/split/generate/llama/{VARIANT}.log").read_text()
    assert f"GPUs assigned by SLURM: {numbers}\n" in log
    assert (runs.split / ANSWERS).exists()


#: Of rules that hold so many GPUs, what sbatch is asked to place, and the whole line of srun.
LINES = {
    0: ("--ntasks=1 --cpus-per-task=1", "-n1 --cpu-bind=q --cpus-per-task=1 --nodes=1"),
    1: (
        "--nodes=1 --ntasks-per-gpu=1 --cpus-per-gpu=8 --gpus=1",
        "-n1 --cpu-bind=q --cpus-per-gpu=8 --gpus=1 --nodes=1",
    ),
    2: (
        "--nodes=1 --ntasks-per-gpu=1 --cpus-per-gpu=8 --gpus=2",
        "-n1 --cpu-bind=q --cpus-per-gpu=8 --gpus=2 --nodes=1",
    ),
}


@pytest.mark.parametrize(
    ("rule", "gpus"),
    [("import_base", 0), ("expert", 1), ("sweep", 1), ("merges", 1), ("generate", 2)],
)
def test_slurm_is_asked_for_cores_beside_every_gpu_and_for_one_node(runs, rule, gpus):
    sbatch, srun = LINES[gpus]
    assert (runs.sbatch[rule], runs.srun[rule]) == ({sbatch}, {srun})


def test_nothing_of_the_cluster_is_left(runs):
    listed = subprocess.run(["ps", "-eo", "comm,args"], check=True, capture_output=True, text=True)
    folder = str(runs.slurm.parents[2])
    assert folder not in listed.stdout
    assert not [group for group in GROUPS if group.exists()]


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
    assert asked_by_experts(project, *arguments)["gpu"] == str(gpus)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # cpus_per_gpu: 8\n", "  cpus_per_gpu: 4\n"),
        ("# set-resources:\n", "set-resources: {expert: {cpus_per_gpu: 4}}\n"),
    ],
    ids=["default-resources", "set-resources"],
)
def test_the_profile_says_how_many_cores_there_are_beside_a_gpu(project, old, new):
    project.edit("profiles/slurm/profile.yaml", old, new)
    assert asked_by_experts(project, *PROFILE)["cpus_per_gpu"] == "4"


def asked_by_experts(project, *arguments):
    """What both experts ask for, in a dry run."""
    printed = project.snakemake("--dry-run", *arguments)
    asked = re.findall(r"^rule expert:.*?^    resources: (.*?)$", printed, re.DOTALL | re.MULTILINE)
    first, second = (dict(each.split("=") for each in line.split(", ")) for line in asked)
    assert first == second
    return first
