"""The smoke study with methods that need statistics of the experts."""

import json
import re

import pandas as pd
import pytest
import yaml
from project import Project
from small_models import WORDS, family

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


# Decoders: one expert is ready, and one is fine-tuned here.
DECODER_METHODS = [
    {"kind": "average"},
    {"kind": "fisher", "examples": [3, 5]},
    {"kind": "regmean", "examples": 5, "ridge": 1e-3},
]
DECODER_FILES = {
    "fisher~exact~3.safetensors",
    "fisher~exact~5.safetensors",
    "regmean~exact~5.safetensors",
}
EXPERTS = ("ready", "trained")


def decoder_study(one_engine):
    def generated(count, seed):
        return {"generator": "instructions", "count": count, "seed": seed}

    benchmark = {
        "kind": "instructions",
        "generated": generated(4, 1000),
        "prompt": "{instruction}",
        "sampling": {"max_tokens": 4},
    }
    here = {"licence": "made here"}
    return {
        "paths": {"results": "results/small", "logs": "logs/small"},
        "decoders": {
            "benchmarks": {"formats": benchmark},
            "families": {
                "llama": {
                    "base": {"source": "path:models/base", **here},
                    "finetune": {"epochs": 1, "batch_size": 4, "max_length": 64},
                    "experts": {
                        "ready": {
                            "benchmarks": ["formats"],
                            "source": {"source": "path:models/code", **here},
                            "statistics": {
                                "records": {"source": "path:texts.jsonl", **here},
                                "texts": "body",
                            },
                        },
                        "trained": {
                            "benchmarks": ["formats"],
                            "data": {"generated": generated(8, 0)},
                        },
                    },
                }
            },
            "generation": {
                "backend": "transformers",
                "dtype": "float32",
                "batch_size": 4,
                "one_engine": one_engine,
            },
            "sweep": None,
            "merges": {"methods": DECODER_METHODS, "sparsifiers": [{"kind": "none"}]},
            "export": ["selected"],
        },
    }


def write_decoders(project, one_engine):
    config = project.folder / "config" / "small.yaml"
    config.write_text(yaml.safe_dump(decoder_study(one_engine)))


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("decoders") / "project", "config/small.yaml")
    family(project.folder / "models")
    texts = [{"body": f"the {word} film is w{20 + row} was"} for row, word in enumerate(WORDS)]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    (project.folder / "texts.jsonl").write_text(lines)
    write_decoders(project, one_engine=False)
    project.snakemake("--cores", "2")
    project.log = project.full_log()
    return project


def test_statistics_of_decoders_are_gathered_once_for_each_expert(decoders):
    rules = re.findall(r"^(?:local)?rule (\w+):", decoders.log, re.MULTILINE)
    assert rules.count("decoder_statistics") == 2
    assert rules.count("calibration") == 1
    for expert in EXPERTS:
        folder = decoders.folder / f"results/small/llama/statistics/{expert}/seed~0"
        assert set(read_manifest(folder)["files"]) == DECODER_FILES


def test_decoders_are_scored_under_all_methods_and_exported(decoders):
    results = decoders.folder / "results/small"
    scores = pd.read_parquet(results / "scores.parquet")
    assert set(scores["method"]) == {"average", "fisher", "regmean"}
    exported = results / "llama/exports/ready+trained/seed~0"
    used = {
        folder.name.partition("+")[2].partition("~")[0]: read_manifest(folder)["made_from"]
        for folder in exported.glob("[!.]*")
    }
    assert set(used) == {"average", "fisher", "regmean"}
    assert set(used["fisher"]["statistics"]) == set(EXPERTS)
    assert not used["average"]["statistics"]


def test_one_engine_gives_the_same_answers(decoders, tmp_path):
    project = decoders.copy(tmp_path / "project")
    write_decoders(project, one_engine=True)
    for path in (project.folder / "results/small/llama/answers").rglob("*.parquet"):
        path.unlink()
    planned = project.planned()
    assert planned["decoder_statistics"] == planned["decoder"] == 0
    project.snakemake("--cores", "2")
    answers = "results/small/llama/answers"
    tables = sorted(path.relative_to(project.folder) for path in project.folder.rglob("*.parquet"))
    compared = [path for path in tables if str(path).startswith(answers)]
    assert len(compared) == 4
    for path in compared:
        one, two = (pd.read_parquet(each.folder / path)["output"] for each in (decoders, project))
        assert one.tolist() == two.tolist()


def test_other_texts_gather_and_merge_again(decoders, tmp_path):
    project = decoders.copy(tmp_path / "project")
    texts = project.folder / "texts.jsonl"
    texts.write_text(texts.read_text() + json.dumps({"body": "a book is one two"}) + "\n")
    planned = project.planned()
    assert planned["calibration"] == planned["decoder_statistics"] == 1
    assert planned["decoder"] == 0
    # Those of Fisher and RegMean, not the average.
    assert planned["merge"] == 3
