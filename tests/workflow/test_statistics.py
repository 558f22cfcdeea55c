"""The smoke study with methods that need statistics of the experts."""

import re

import pandas as pd
import pytest
import yaml

from mergegrid.checkpoints.publish import read_manifest
from mergegrid.study.scoring.scores import COLUMNS

pytestmark = pytest.mark.workflow

METHODS = [
    {"kind": "average"},
    {"kind": "fisher", "examples": [16, 32]},
    {"kind": "regmean", "examples": 32, "offdiagonal": [0.7, 0.9], "ridge": 1e-6},
]
FILES = {
    "fisher~exact~16.safetensors",
    "fisher~exact~32.safetensors",
    "regmean~exact~32.safetensors",
}
MERGES = "results/smoke/minilm/merges/trec+spam/seed~0.parquet"


def with_methods(project, methods):
    """The smoke study with other methods."""
    config = project.folder / "config" / "smoke.yaml"
    study = yaml.safe_load(config.read_text())
    study["encoders"]["merges"]["methods"] = methods
    config.write_text(yaml.safe_dump(study))


@pytest.fixture(scope="module")
def run(smoke, tmp_path_factory):
    project = smoke.copy(tmp_path_factory.mktemp("statistics") / "project")
    with_methods(project, METHODS)
    project.snakemake("--cores", "2", MERGES)
    project.log = project.full_log()
    return project


def test_statistics_are_gathered_once_for_each_expert(run):
    rules = re.findall(r"^(?:local)?rule (\w+):", run.log, re.MULTILINE)
    assert rules.count("statistics") == 2
    for expert in ("trec", "spam"):
        folder = run.folder / f"results/smoke/minilm/statistics/{expert}/seed~0"
        assert set(read_manifest(folder)["files"]) == FILES


def test_all_candidates_are_scored_and_one_of_each_method_is_chosen(run):
    scores = pd.read_parquet(run.folder / MERGES)
    assert list(scores.columns) == list(COLUMNS)
    compared = scores[scores["split"] == "validation"]
    candidates = compared.groupby("method")["recipe_digest"].nunique()
    assert candidates["fisher"] == 2
    assert candidates["regmean"] == 2
    tested = scores[scores["split"] == "test"]
    # Each behind `none` and behind `dare`, on two tasks.
    assert tested.groupby("method").size().to_dict() == dict.fromkeys(
        ("average", "fisher", "regmean"), 4
    )


@pytest.fixture
def copy(run, tmp_path):
    """The same, for a test to change."""
    return run.copy(tmp_path / "project")


def test_without_such_methods_nothing_is_gathered(copy):
    with_methods(copy, METHODS[:1])
    assert "statistics" not in copy.planned()


def test_another_number_of_examples_gathers_and_merges_again(copy):
    with_methods(copy, [METHODS[0], METHODS[1] | {"examples": [16, 32, 64]}, METHODS[2]])
    planned = copy.planned()
    assert planned["statistics"] == 2
    assert planned["merges"] == 1
    assert planned["expert"] == 0
