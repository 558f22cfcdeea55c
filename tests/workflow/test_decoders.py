"""The decoder study for real, on Llamas of two layers: a ready and a fine-tuned expert."""

import re

import pandas as pd
import pytest
import yaml
from project import Project
from small_models import family

pytestmark = pytest.mark.workflow

FORMATS, FUNCTIONS = "formats", "functions"


def study():
    def questions(kind, generator):
        return {
            "kind": kind,
            "generated": {"generator": generator, "count": 5, "seed": 1000},
            "prompt": "{instruction}",
            "sampling": {"max_tokens": 8},
        }

    return {
        "paths": {"results": "results/small", "logs": "logs/small"},
        "decoders": {
            "benchmarks": {
                FORMATS: questions("instructions", "instructions"),
                FUNCTIONS: questions("mbpp", "functions"),
            },
            "families": {
                "llama": {
                    "base": {"source": "path:models/base", "licence": "made here"},
                    "finetune": {"epochs": 1, "batch_size": 4},
                    "experts": {
                        "ready": {
                            "benchmarks": [FUNCTIONS],
                            "source": {"source": "path:models/code", "licence": "made here"},
                        },
                        "trained": {
                            "benchmarks": [FORMATS],
                            "data": {
                                "generated": {"generator": "instructions", "count": 8, "seed": 0}
                            },
                        },
                    },
                }
            },
            "generation": {"backend": "transformers", "dtype": "float32", "batch_size": 4},
            "rates": [0.9],
            "sweep": {"sparsifiers": [{"kind": "dare"}]},
            "merges": {"sparsifiers": [{"kind": "none"}, {"kind": "dare", "rate": 0.9}]},
        },
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("decoders") / "project", "config/small.yaml")
    family(made.folder / "models")
    (made.folder / "config" / "small.yaml").write_text(yaml.safe_dump(study()))
    made.snakemake("--cores", "2")
    return made


@pytest.fixture
def copy(project, tmp_path):
    """The finished study with its models, for a test to change and to run."""
    return project.copy(tmp_path / "project")


@pytest.fixture
def scores(project):
    return pd.read_parquet(project.folder / "results" / "small" / "scores.parquet")


def test_every_variant_is_scored_on_the_benchmarks_of_its_experts(scores):
    primary = scores[scores["primary"]]
    asked = primary.groupby(["experts", "task"])["recipe"].nunique().to_dict()
    # Alone: as it is, the base, DARE; merged: without and with DARE.
    assert asked == {
        ("ready", FUNCTIONS): 3,
        ("trained", FORMATS): 3,
        ("ready+trained", FUNCTIONS): 2,
        ("ready+trained", FORMATS): 2,
    }
    assert set(scores["n"]) == {5}
    assert scores["selected"].all()
    assert scores["engine"].str.fullmatch(r"transformers float32 cpu").all()
    assert set(primary["metric"]) == {"accuracy", "pass@1"}


def test_findings_are_of_merges_sparsifiers_and_drop_rates(project):
    results = project.folder / "results" / "small"
    findings = pd.read_parquet(results / "findings.parquet")
    assert findings["kind"].tolist() == ["best", "experts", "sparsifier", "drop_rate"]
    assert findings["n"].tolist() == [10] * 4
    assert (findings["high"] > findings["low"]).all()
    text = (results / "findings.md").read_text()
    for part in (
        "DARE at 0.9 before average",
        "there is one mask seed",
        "Merging one decoder took",
    ):
        assert part in text


def test_every_answer_has_a_record(project):
    records = project.folder / "results" / "small" / "llama" / "records" / "ready+trained"
    frame = pd.read_parquet(records / "seed~0" / f"{FUNCTIONS}.parquet")
    assert len(frame) == 2 * 5
    assert {"recipe", "id", "prompt_digest", "output", "extracted", "verdict"} <= set(frame)
    assert set(frame["verdict"]) <= {"passed", "failed", "timeout", "crashed"}


def test_merged_models_are_removed_and_nothing_is_left_to_do(project):
    assert not list((project.folder / "results" / "small").rglob("models/**/*.safetensors"))
    assert not project.planned()


@pytest.mark.parametrize(
    ("given", "provided"),
    [
        (["gpu=5"], {"gpu": "5", "merged_models": "10"}),
        (["gpu=5", "merged_models=2"], {"gpu": "5", "merged_models": "2"}),
        (["other=1"], {"other": "1"}),
    ],
)
def test_two_models_for_each_engine_are_merged_at_a_time(copy, given, provided):
    target = f"results/small/benchmarks/{FORMATS}.parquet"
    copy.snakemake("--cores", "1", "--force", "--resources", *given, "--", target)
    (line,) = re.findall(r"^Provided resources: (.*)$", copy.full_log(), re.MULTILINE)
    assert dict(re.findall(r'"(\w+)", (\d+)', line)) == provided


def test_one_more_rate_runs_only_its_own_jobs(copy):
    path = copy.folder / "config" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["decoders"]["rates"] = [0.9, 0.5]
    path.write_text(yaml.safe_dump(content))
    planned = copy.planned()
    # One variant more of each single expert; merges keep the rate that they name.
    assert {rule: planned[rule] for rule in ("merge", "generate", "score", "choose")} == {
        "merge": 2,
        "generate": 2,
        "score": 2,
        "choose": 2,
    }
    assert not {"decoder", "import_decoder", "questions", "instructions"} & set(planned)


def test_another_card_beside_the_weights_runs_nothing(copy):
    base = copy.folder / "models" / "base"
    (base / "README.md").write_text("# Another card\n")
    (base / "LICENSE").write_text("Another licence\n")
    assert copy.planned() == {}


@pytest.mark.parametrize("model", ["base", "code"])
def test_one_bit_of_a_weight_runs_everything_behind_it(copy, model):
    path = copy.folder / "models" / model / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    planned = copy.planned()
    everything = dict.fromkeys(
        ("scores", "comparisons", "ranking", "answers", "findings", "all"), 1
    )
    assert everything.items() <= planned.items()
    experts = 2 if model == "base" else 1
    # Of three sets of experts, two have the ready one.
    sets = 3 if model == "base" else 2
    assert planned["fetch"] == 1
    assert planned["import_decoder"] == (model == "base")
    assert (planned["decoder"], planned["deltas"]) == (experts, experts)
    assert (planned["merge"], planned["generate"]) == (2 + 3 * (sets - 1),) * 2
    assert planned["choose"] == sets


def test_one_engine_for_all_variants_gives_the_same_answers(copy):
    content = yaml.safe_load((copy.folder / "config" / "small.yaml").read_text())
    content["decoders"]["generation"]["one_engine"] = True
    content["paths"] = {"results": "results/one", "logs": "logs/one"}
    (copy.folder / "config" / "one.yaml").write_text(yaml.safe_dump(content))
    results = copy.folder / "results"
    wanted = "results/one/llama/benchmarks/ready+trained/seed~0.parquet"
    copy.snakemake("--cores", "2", "--configfile", "config/one.yaml", "--", wanted, named=False)
    answers = sorted((results / "one" / "llama" / "answers").rglob("*.parquet"))
    assert len(answers) == 2
    for path in answers:
        twin = results / "small" / path.relative_to(results / "one")
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(twin))


def test_a_factor_is_chosen_by_texts_that_are_not_scored(copy):
    content = yaml.safe_load((copy.folder / "config" / "small.yaml").read_text())
    grids = [{"kind": "dare", "rate": 0.9}, {"kind": "dare", "rate": 0.9, "rescale": 0.5}]
    content["decoders"] |= {
        "validation_fraction": 0.5,
        "similarity": {"split": "validation", "sparsifiers": grids},
    }
    (copy.folder / "config" / "small.yaml").write_text(yaml.safe_dump(content))
    results = copy.folder / "results" / "small"
    table, records = "tables/output_change.csv", "llama/benchmarks/ready/seed~0.parquet"
    copy.snakemake("--cores", "2", "--", *(f"results/small/{name}" for name in (table, records)))
    changes = pd.read_csv(results / table)
    assert set(changes["expert"]) == {"ready", "trained"}
    dare = changes[changes["sparsifier"] == "dare"]
    assert dare.groupby("expert")["least"].apply(sorted).tolist() == [[False, True]] * 2
    (path,) = (results / "llama" / "similarity" / "ready").glob("*.parquet")
    (read,) = set(pd.read_parquet(path)["examples"])
    scores = pd.read_parquet(results / records)
    (tested,) = set(scores[scores["split"] == "test"]["n"])
    assert 0 < read == 5 - tested
