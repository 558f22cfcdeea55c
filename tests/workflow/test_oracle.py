"""The oracle of two tasks of GLUE for real: trained, scored, and shown beside a merge."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from glue_records import local, needs_glue
from project import Project
from transformers import AutoModelForSequenceClassification

pytestmark = [pytest.mark.workflow, needs_glue]
ORACLE = "minilm/oracles/sst2+stsb/seed~0"


SST2 = {"text": ["sentence"], "labels": [0, 1], "metric": "accuracy"}
STSB = {"text": ["sentence1", "sentence2"], "metric": "pearson_and_spearman"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("oracle") / "project", "config/local.yaml")
    smoke = yaml.safe_load((project.folder / "config" / "smoke.yaml").read_text())
    config = {
        "tasks": {
            "sst2": local("sst2", SST2, train=160, test=80),
            "stsb": local("stsb", STSB, train=96, test=80),
        },
        "families": {
            "minilm": {
                "base": smoke["encoders"]["families"]["minilm"]["base"],
                "finetune": {"learning_rate": 5e-4, "epochs": 1},
                "experts": {"sst2": {}, "stsb": {}},
                "max_length": 32,
            }
        },
        "rates": [0],
        "sweep": {"sparsifiers": []},
        # The other way round: an oracle goes by the name of the merge.
        "merges": {"sets": ["pairs"], "sparsifiers": [{"kind": "none"}]},
        "oracle": {"sets": [["stsb", "sst2"]], "finetune": {"epochs": 2}},
    }
    (project.folder / "config" / "local.yaml").write_text(yaml.safe_dump({"encoders": config}))
    # A folder that is asked for stays, so that it can be looked at; scoring it removes it.
    project.snakemake("--cores", "2", f"results/{ORACLE}")
    shutil.copytree(project.folder / "results" / ORACLE, project.folder / "kept")
    project.snakemake("--cores", "2", "results/scores.parquet", "results/tables/merges_wide.csv")
    return project


def test_an_oracle_is_scored_on_both_tasks_and_is_a_line_beside_the_merge(study):
    scores = pd.read_parquet(study.folder / "results" / "scores.parquet")
    ours = scores[(scores["study"] == "oracle") & (scores["split"] == "test")].set_index("task")
    assert set(ours["experts"]) == {"sst2+stsb"}
    assert ours["n"].to_dict() == {"sst2": 80, "stsb": 80}
    wide = pd.read_csv(study.folder / "results" / "tables" / "merges_wide.csv")
    assert list(wide["method"]) == ["single experts", "multitask oracle", "base", "average"]
    line = wide.set_index("method").loc["multitask oracle"]
    assert [float(line["sst2"]), float(line["stsb"])] == pytest.approx(
        [ours["value"]["sst2"], ours["value"]["stsb"]], abs=1e-3
    )


def test_it_was_trained_as_asked_and_its_parts_load_like_any_model(study):
    folder = study.folder / "kept"
    training = json.loads((folder / "training.json").read_text())
    assert (training["settings"]["epochs"], training["settings"]["learning_rate"]) == (2, 5e-4)
    for name, outputs in (("sst2", 2), ("stsb", 1)):
        model = AutoModelForSequenceClassification.from_pretrained(folder / name)
        assert model.num_labels == outputs
    log = (study.folder / "logs" / "oracle" / "minilm" / "sst2+stsb" / "seed~0.log").read_text()
    assert "epoch 2 of 2: validation" in log


def test_nothing_but_its_scores_stays(study):
    oracles = (study.folder / "results" / ORACLE).parents[1]
    assert [path for path in oracles.rglob("*") if path.is_file()] == [
        oracles / "sst2+stsb" / "seed~0.parquet"
    ]
    assert not study.planned().keys() & {"oracle", "oracle_scores"}


def test_only_what_depends_on_the_oracle_is_made_again(study, tmp_path):
    copy = study.copy(tmp_path / "project")
    path = copy.folder / "config" / "local.yaml"
    text = path.read_text()
    plans = {}
    for name, change in {
        "epochs": lambda config: config["oracle"]["finetune"].update(epochs=3),
        "without": lambda config: config.update(oracle=None),
        "method": lambda config: config["merges"].update(methods=[{"kind": "ties"}]),
    }.items():
        config = yaml.safe_load(text)
        change(config["encoders"])
        path.write_text(yaml.safe_dump(config))
        plans[name] = set(copy.planned()) & {
            *("expert", "sweep", "merges", "oracle", "oracle_scores", "scores"),
        }
    assert plans == {
        "epochs": {"oracle", "oracle_scores", "scores"},
        "without": {"scores"},
        "method": {"merges", "scores"},
    }
