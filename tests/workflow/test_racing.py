"""The smoke study with the races of docs/studies.md, and what they cost."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from project import Project

from mergegrid.study.scoring.scores import COLUMNS, RACING_COLUMNS

pytestmark = pytest.mark.workflow

DOCS = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
EXAMPLE = re.search(r"```yaml\n(encoders:\n  merges:\n    racing:.*?)```", DOCS, re.DOTALL)[1]
RACING = yaml.safe_load(EXAMPLE)["encoders"]["merges"]["racing"]
(COMMAND,) = re.findall(r"^mergegrid (racing .*)$", DOCS, re.MULTILINE)
FINISHED = ["results/smoke/scores.parquet", "results/smoke/tables/selection.csv"]


def edited(project: Project, racing: dict | None) -> None:
    path = project.folder / "config" / "smoke.yaml"
    study = yaml.safe_load(path.read_text())
    merges = study["encoders"]["merges"]
    merges["methods"] = [{"kind": "task_arithmetic", "coefficient": [0.1, 0.3, 0.5, 0.7, 0.9, 1.5]}]
    if racing is not None:
        merges["racing"] = racing
    path.write_text(yaml.safe_dump(study, sort_keys=False))


@pytest.fixture(scope="module")
def full(smoke, tmp_path_factory):
    project = smoke.copy(tmp_path_factory.mktemp("full") / "project")
    edited(project, None)
    project.snakemake("--cores", "1", "--", *FINISHED)
    return project


@pytest.fixture(scope="module")
def raced(smoke, tmp_path_factory):
    project = smoke.copy(tmp_path_factory.mktemp("raced") / "project")
    # The smoke study has few examples.
    edited(project, RACING | {"start": 0.25, "examples": 8})
    project.snakemake("--cores", "1", "--", *FINISHED)
    return project


def table(project):
    return pd.read_csv(project.folder / FINISHED[1])


def test_scores_say_how_far_candidates_came(raced):
    scores = pd.read_parquet(raced.folder / FINISHED[0])
    assert list(scores.columns) == [*COLUMNS, *RACING_COLUMNS]
    assert {name: str(scores[name].dtype) for name in RACING_COLUMNS} == {
        name: kind for name, (kind, _) in RACING_COLUMNS.items()
    }
    compared = scores[scores["split"] == "validation"]
    assert compared["share"].min() < 0.5
    assert compared.loc[compared["selected"], "share"].eq(1).all()
    assert scores.loc[scores["study"] == "sweep", "share"].isna().all()


def test_whole_scores_are_those_of_the_full_grid(full, raced):
    keys = ["study", "recipe_digest", "head", "split"]
    both = pd.read_parquet(raced.folder / FINISHED[0]).merge(
        pd.read_parquet(full.folder / FINISHED[0]), on=keys, suffixes=("", "_full")
    )
    whole = both[both["share"].fillna(1) == 1]
    assert len(whole) > 10
    assert (whole["value"] == whole["value_full"]).all()


def test_the_table_of_selection_says_what_was_saved(full, raced):
    assert (table(full)["evaluated"] == 1).all()
    assert (table(raced)["evaluated"] < 0.9).all()
    assert table(raced)["optimism"].notna().all()


def test_a_study_that_begins_to_race_plans_its_merges_anew_and_nothing_else_before(full, tmp_path):
    project = full.copy(tmp_path / "project")
    edited(project, RACING)
    planned = project.planned()
    assert planned["merges"] == 1
    assert {"expert", "sweep", "prepare", "deltas"}.isdisjoint(planned)


def test_the_command_of_the_docs_replays_races_on_the_full_grid(full):
    arguments = shlex.split(COMMAND)
    arguments[1] = "config/smoke.yaml"
    program = "from mergegrid.cli import main; main()"
    options = ["--examples", "8", "--csv", "racing.csv"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, *options],
        cwd=full.folder,
        env={**os.environ, **full.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    losses = pd.read_csv(full.folder / "racing.csv")
    settings = losses[["start", "keep", "examples"]]
    assert not settings.duplicated().any()
    assert settings["start"].unique().tolist() == [0.05, 0.125, 0.25]
    assert len(settings) == 3 * 2 * 2
    # One comparison, in five orders of the examples.
    assert (losses["searches"] == 5).all()
    assert (losses["evaluated"] < 1).all()
    assert losses["differ"].between(0, 1).all()
    assert "Standard deviation over seeds" in done.stdout


def test_candidates_of_the_docs_are_drawn_and_only_merges_run_again(full, tmp_path):
    (example,) = re.findall(r"```yaml\n(encoders:\n  merges:\n    methods.*?)```", DOCS, re.DOTALL)
    (sampled,) = yaml.safe_load(example)["encoders"]["merges"]["sampled"]
    project = full.copy(tmp_path / "project")
    path = project.folder / "config" / "smoke.yaml"
    study = yaml.safe_load(path.read_text())
    study["encoders"]["merges"]["sampled"] = [sampled | {"budget": 5, "batch": 2}]
    study["encoders"]["merges"]["sparsifiers"] = [{"kind": "none"}]
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    merges = "results/smoke/minilm/merges/trec+spam/seed~0.parquet"
    planned = project.planned()
    assert planned["merges"] == 1
    assert {"expert", "sweep", "prepare", "deltas"}.isdisjoint(planned)
    project.snakemake("--cores", "1", "--", merges)
    scores = pd.read_parquet(project.folder / merges)
    drawn = scores[(scores["method"] == "ties") & (scores["split"] == "validation")]
    assert drawn["recipe_digest"].nunique() == 5
    assert drawn["rate"].between(0.1, 0.95).all()
    tested = scores[(scores["method"] == "ties") & (scores["split"] == "test")]
    assert tested["selected"].all()
    assert tested["recipe_digest"].nunique() == 1
