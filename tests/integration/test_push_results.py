"""`mergegrid push --results`: tables of a study on a small hub, read back by `datasets`."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from hub_uploads import upload_hub

from mergegrid.recipes.recipe import Recipe
from mergegrid.study.scoring.scores import COLUMNS, Measurement, score_frame, score_row

RUN = "from mergegrid.cli import main; main()"
READ = """
import json, sys, warnings
from datasets import get_dataset_config_names, load_dataset
repo = sys.argv[1]
configs = get_dataset_config_names(repo)
tables = {name: load_dataset(repo, name, split="test") for name in configs}
default = load_dataset(repo, split="test")
print(json.dumps({"configs": configs, "default": default.column_names,
                  "types": {name: str(kind.dtype) for name, kind in default.features.items()},
                  "rows": {name: table.to_list() for name, table in tables.items()}}))
"""
TABLE = pd.DataFrame(
    {
        "family": ["NA", "bert"],
        "experts": ["a+b", "a+b"],
        "mean": [0.5, None],
        "settings": ["null", "{}"],
    }
)


def scores():
    recipe = Recipe(family="bert", experts=("a", "b"))
    rows = [
        score_row("merges", recipe, head, head, "accuracy", "test", Measurement(0.5, 0.1, 20),
                  selected=True, selection="validation", inputs_digest="0" * 64)
        for head in ("a", "b")
    ]  # fmt: skip
    return score_frame(rows)


@pytest.fixture
def study(tmp_path):
    """A configuration whose results have scores and a table."""
    sentences = {"source": "path:.", "files": "*.csv"}
    task = {"text": ["text"], "labels": [0, 1], "metric": "accuracy", "train": sentences}
    family = {"base": {"source": "path:."}, "experts": {"a": {}, "b": {}}}
    encoders = {"tasks": {"a": task, "b": task}, "families": {"bert": family}}
    config = {"title": "My study", "encoders": encoders}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "results" / "tables").mkdir(parents=True)
    scores().to_parquet(tmp_path / "results" / "scores.parquet")
    TABLE.to_csv(tmp_path / "results" / "tables" / "merges.csv", index=False)
    return tmp_path


@pytest.fixture
def hub():
    with upload_hub() as hub:
        yield hub


@pytest.fixture
def python(hub, study):
    def call(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        environment = hub.environment(study / "home")
        return subprocess.run(
            command, env=environment, cwd=study, capture_output=True, text=True, check=False
        )

    return call


def test_tables_are_configurations_that_datasets_loads(python, hub):
    done = python(RUN, "push", "--results", "config.yaml", "org/results", "--private")
    assert done.returncode == 0, done.stderr
    assert hub.repositories["dataset", "org/results"].private
    read = python(READ, "org/results")
    assert read.returncode == 0, read.stderr
    content = json.loads(read.stdout)
    assert set(content["configs"]) == {"scores", "merges"}
    assert content["default"] == list(COLUMNS)
    types = {"string": "string", "bool": "bool", "int64": "int64", "Int64": "int64"}
    for name, (kind, _) in COLUMNS.items():
        assert content["types"][name] == types.get(kind, kind)
    assert content["rows"]["scores"] == json.loads(scores().to_json(orient="records"))
    # A text that reads NA or null stays a text, and an empty field is missing.
    assert content["rows"]["merges"] == json.loads(TABLE.to_json(orient="records"))


def test_a_dry_run_lists_the_tables_and_asks_nothing(python, hub):
    done = python(RUN, "push", "--results", "config.yaml", "org/results", "--dry-run")
    assert done.returncode == 0, done.stderr
    names = [line.split()[1] for line in done.stdout.splitlines()[:-2]]
    assert names == ["README.md", "merges/test.parquet", "scores/test.parquet"]
    assert hub.asked == []


def test_a_study_without_results_and_a_local_path_are_refused(python, study, hub):
    table = study / "results" / "tables" / "merges.csv"
    table.write_text(f"family,source\nbert,path:{study}/data\n")
    done = python(RUN, "push", "--results", "config.yaml", "org/results")
    assert done.returncode == 2
    assert f"{study}/data, a path of this machine" in done.stderr
    (study / "results" / "scores.parquet").unlink()
    done = python(RUN, "push", "--results", "config.yaml", "org/results")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no results/scores.parquet; run the study first")
    assert hub.asked == []
