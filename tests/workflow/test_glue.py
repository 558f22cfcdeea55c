"""The GLUE study for real: its own tasks and recipe, on local records and a small encoder."""

import shutil

import pandas as pd
import pytest
import yaml
from glue_records import FOLDER, local, needs_glue
from project import Project

pytestmark = [pytest.mark.workflow, needs_glue]
SIZES = {"train": 160, "validation": 40, "test": 50}


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("glue") / "project", "config/local.yaml")
    study = yaml.safe_load((project.folder / "config" / "paper_encoders.yaml").read_text())
    smoke = yaml.safe_load((project.folder / "config" / "smoke.yaml").read_text())
    names = ["mrpc", "stsb"]
    encoders = study["encoders"]
    family = encoders["families"]["bert"]
    encoders |= {
        "tasks": {name: local(name, encoders["tasks"][name], **SIZES) for name in names},
        "families": {
            "minilm": {
                "base": smoke["encoders"]["families"]["minilm"]["base"],
                "finetune": {"learning_rate": 1e-4, "epochs": 1},
                "experts": {name: {} for name in names},
                "max_length": 64,
            }
        },
        "rates": [0, 0.9],
        "seeds": {"training": [0], "mask": [0]},
        # Both have tests of their own.
        "oracle": None,
        "similarity": None,
    }
    assert set(names) <= set(family["experts"])
    encoders["merges"]["methods"] = [{"kind": "average"}]
    encoders["merges"]["sparsifiers"] = [{"kind": "none"}, {"kind": "dare", "rate": 0.9}]
    (project.folder / "config" / "local.yaml").write_text(yaml.safe_dump(study))
    project.snakemake("--cores", "2")
    return project


def test_pairs_with_two_metrics_each_are_learnt_and_scored(glue):
    scores = pd.read_parquet(glue.folder / "results/paper_encoders/scores.parquet")
    assert set(zip(scores["task"], scores["metric"], strict=True)) == {
        ("mrpc", "accuracy_and_f1"),
        ("stsb", "pearson_and_spearman"),
    }
    assert set(scores["study"]) == {"sweep", "merges"}
    assert (scores["n"] == 50).all()


def test_the_published_validation_split_is_the_test_split(glue):
    examples = pd.read_parquet(glue.folder / "results/paper_encoders/tasks/mrpc.parquet")
    published = pd.read_json(FOLDER / "mrpc" / "validation.jsonl", lines=True)
    tested = examples[examples["split"] == "test"]
    assert set(tested["text_a"]) <= set(published["sentence1"].str.strip())
    assert examples["split"].value_counts().to_dict() == {
        "train": 144,
        "validation": 16,
        "test": 50,
    }


def test_a_second_run_does_nothing(glue):
    assert glue.planned() == {}


def test_a_changed_local_file_is_noticed(glue, tmp_path):
    records = FOLDER / "mrpc" / "train.jsonl"
    shutil.copyfile(records, tmp_path / "train.jsonl")
    study = glue.copy(tmp_path / "project")
    study.edit("config/local.yaml", str(records), str(tmp_path / "train.jsonl"))
    planned = study.planned()
    assert planned["fetch"] == 1
    assert planned["prepare"] == 1
    assert planned["expert"] == 1
