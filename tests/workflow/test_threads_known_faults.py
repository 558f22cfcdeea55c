"""A job uses the threads that its rule names: neither one of several, nor all of the machine."""

import json
import re
from collections import defaultdict

import pytest

#: Rules that merge or measure models with the engine alone. All others compute with torch, whose
#: sums on the CPU depend on the number of threads, or with one thread.
SEVERAL = {"merge"}


def threads_of(printed):
    """By rule, the threads of its jobs in a dry chunk."""
    found = defaultdict(set)
    rule = ""
    for line in printed.splitlines():
        if match := re.match(r"(?:local)?rule (\S+):", line):
            rule = match[1]
            found[rule].add(1)
        elif match := re.match(r"\s+threads: (\d+)", line):
            found[rule] = {int(match[1])}
    return found


@pytest.mark.parametrize(
    ("cores", "expected", "measuring"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 2), (64, 4, 4)]
)
def test_engines_get_up_to_four_threads_and_torch_one(project, cores, expected, measuring):
    study = project("config/config.yaml")
    study.edit("config/config.yaml", "one_engine: true", "one_engine: false")
    found = threads_of(study.snakemake("--dry-run", "--cores", str(cores)))
    assert set(found) >= SEVERAL
    assert found.pop("deltas") == {measuring}
    for rule, threads in found.items():
        assert threads == {expected if rule in SEVERAL else 1}, rule


@pytest.mark.parametrize(("gpus", "expected"), [(0, 1), (8, 4)])
def test_variants_through_one_engine_get_their_share_of_the_machine(project, gpus, expected):
    study = project("config/config.yaml")
    given = ["--resources", f"gpu={gpus}"] if gpus else []
    found = threads_of(study.snakemake("--dry-run", "--cores", "64", *given))
    engines = {rule: threads for rule, threads in found.items() if rule.startswith("generate_")}
    assert engines
    assert all(threads == {expected} for threads in engines.values()), engines


USED = """
import json, os, sys, threading
sys.path.insert(0, {scripts!r})
from _job import job

with job(snakemake):
    import numpy
    import torch
    from scipy.linalg import lapack
    from threadpoolctl import threadpool_info

    from mergegrid.engine.budget import options_for

    blas = {{each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}}
    found = {{"torch": torch.get_num_threads(), "blas": max(blas)}}
    found["merging"] = options_for("cpu", snakemake.threads).threads
    open(snakemake.output[0], "w").write(json.dumps(found))
"""


@pytest.mark.parametrize("rehearsed", [False, True])
def test_a_job_uses_the_threads_that_it_is_given(project, rehearsed):
    study = project("config/smoke.yaml")
    scripts = study.folder / "workflow" / "scripts"
    (study.folder / "used.py").write_text(USED.format(scripts=str(scripts)))
    (study.folder / "used.smk").write_text(
        'rule used:\n    output: "used.json"\n    log: "used.log"\n    threads: 2\n'
        '    script: "used.py"\n'
    )
    if rehearsed:
        study.environment["MERGEGRID_DEVICE"] = "cpu"
    study.snakemake("--snakefile", "used.smk", "--cores", "2", named=False)
    found = json.loads((study.folder / "used.json").read_text())
    assert found == {"torch": 1 if rehearsed else 2, "blas": 2, "merging": 2}
