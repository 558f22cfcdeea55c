"""What a SLURM of tests knows of the jobs of Snakemake: its accounting, its calls, their GPUs."""

import re
import subprocess
from collections import defaultdict
from itertools import takewhile

FIELDS = ["JobID", "State", "ReqMem", "AllocTRES", "NodeList", "Comment"]
#: The options of sbatch that say where a job may lie and how much of a node it takes but memory.
PLACES = re.compile(r"--(nodes|ntasks|ntasks-per-gpu|cpus-per-task|cpus-per-gpu|gpus|gres)=.*")


def shown(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sacct(*options):
    """Jobs and their steps as the accounting of SLURM has them."""
    command = ["sacct", "--noheader", "--parsable2", *options, f"--format={','.join(FIELDS)}"]
    return [
        dict(zip(FIELDS, line.split("|"), strict=True)) for line in shown(*command).split("\n")[:-1]
    ]


def rule_of(comment):
    return re.match(r"rule_(\w+?)(_wildcards_|$)", comment)[1]


def allocated(job):
    """What a job or a step was given, such as `{"cpu": "16", "gres/gpu": "2", "node": "1"}`."""
    return dict(each.split("=") for each in job["AllocTRES"].split(","))


def devices_of_jobs(note):
    """By job, the node and the number there of every GPU that its steps saw."""
    seen = defaultdict(set)
    for line in note.read_text().splitlines():
        job, node, *devices = line.split()
        seen[job] |= {(node, device) for each in devices for device in each.split(",")}
    return seen


def sbatch_lines(calls):
    """By rule, the options with which sbatch was called that PLACES names."""
    found = defaultdict(set)
    for _, *arguments in _lines(calls):
        if "--comment" in arguments:
            rule = rule_of(arguments[arguments.index("--comment") + 1])
            found[rule].add(" ".join(filter(PLACES.fullmatch, arguments)))
    return found


def srun_lines(calls, jobs):
    """By rule, all options with which srun was called in its jobs."""
    rules = {job["JobID"]: rule_of(job["Comment"]) for job in jobs}
    found = defaultdict(set)
    for job, *arguments in _lines(calls):
        options = takewhile(lambda argument: argument.startswith("-"), arguments)
        found[rules[job]].add(" ".join(options))
    return found


def _lines(calls):
    return [line.split("\t") for line in calls.read_text().splitlines()]
