"""A search of 60 candidates, as a study runs it: killed twice, it ends as if it had not been."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from faulty import end, wait_for
from project import Project

pytestmark = [pytest.mark.workflow, pytest.mark.faults]

MERGES = "results/smoke/minilm/merges/trec+spam/seed~0.parquet"
BUDGET = 60
SEARCH = {
    "sampler": "tpe",
    "budget": BUDGET,
    "batch": 10,
    "method": {"kind": "task_arithmetic", "coefficient": {"low": 0.1, "high": 1.5}},
    "sparsifier": {"kind": "dare", "rate": {"low": 0.1, "high": 0.95}},
}


def study_with_search(folder: Path) -> Project:
    """The smoke study with a search in place of its grid, and with its experts."""
    project = Project(folder, "config/smoke.yaml")
    path = folder / project.config
    study = yaml.safe_load(path.read_text())
    study["encoders"]["merges"] |= {
        "methods": [{"kind": "average"}],
        "sparsifiers": [{"kind": "none"}],
        "sampled": [SEARCH],
    }
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    experts = (f"results/smoke/minilm/experts/{name}/seed~0" for name in ("trec", "spam"))
    project.snakemake("--cores", "2", "--", *experts)
    return project


def scored(project: Project) -> int:
    """How many candidates' scores are on disk."""
    store = (project.folder / MERGES).with_suffix(".store.jsonl")
    return len(store.read_text().splitlines()) if store.is_file() else 0


def kill_after(project: Project, lines: int) -> None:
    """Run the search, and kill Snakemake and its jobs once the store has some more lines."""
    command = ["snakemake", "--cores", "1", "--configfile", project.config, "--", MERGES]
    before = scored(project)
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=project.folder,
        env={**os.environ, **project.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert wait_for(lambda: scored(project) >= before + lines, process)
    finally:
        end(process)


def test_a_search_of_60_candidates_that_is_killed_twice_ends_the_same(tmp_path):
    undisturbed = study_with_search(tmp_path / "undisturbed")
    killed = undisturbed.copy(tmp_path / "killed")
    undisturbed.snakemake("--cores", "1", "--", MERGES)
    for lines in (15, 40):
        kill_after(killed, lines)
    killed.snakemake("--cores", "1", "--", MERGES)

    assert (killed.folder / MERGES).read_bytes() == (undisturbed.folder / MERGES).read_bytes()
    scores = pd.read_parquet(killed.folder / MERGES)
    searched = scores[(scores["sparsifier"] == "dare") & (scores["split"] == "validation")]
    assert searched["recipe_digest"].nunique() == BUDGET
    tested = scores[(scores["sparsifier"] == "dare") & (scores["split"] == "test")]
    assert tested["selected"].all()
    assert tested["recipe_digest"].nunique() == 1
