"""A study whose experts are LoRA adapters, beside the same experts merged by PEFT."""

import adapters
import pandas as pd
import pytest
import yaml
from project import Project
from small_models import llama, save, tokenizer

pytestmark = pytest.mark.workflow

TASK = "formats"


def study():
    def ready(name):
        return {
            "benchmarks": [TASK],
            "source": {"source": f"path:models/{name}", "licence": "made here"},
        }

    return {
        "paths": {"results": "results/small", "logs": "logs/small"},
        "decoders": {
            "benchmarks": {
                TASK: {
                    "kind": "instructions",
                    "generated": {"generator": "instructions", "count": 5, "seed": 1000},
                    "prompt": "{instruction}",
                    "sampling": {"max_tokens": 8},
                }
            },
            "families": {
                "llama": {
                    "base": {"source": "path:models/llama", "licence": "made here"},
                    "base_is": "org/Other-7B",
                    "dtype": "float32",
                    "experts": {
                        name: ready(name)
                        for name in ("rslora", "dora", "rslora-whole", "dora-whole")
                    },
                }
            },
            "generation": {"backend": "transformers", "dtype": "float32", "batch_size": 4},
            "rates": [0.5],
            "sweep": {"sparsifiers": [{"kind": "dare"}]},
            "merges": {
                "sets": [
                    ["rslora", "dora"],
                    ["rslora-whole", "dora-whole"],
                    ["rslora", "dora-whole"],
                ],
                "sparsifiers": [{"kind": "dare", "rate": 0.5}],
                "methods": [{"kind": "ties"}],
            },
        },
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("adapters") / "project", "config/small.yaml")
    models = made.folder / "models"
    base = llama().float()
    save(base, models / "llama")
    for seed, (name, kind) in enumerate({"rslora": "use_rslora", "dora": "use_dora"}.items()):
        settings = {"target_modules": adapters.LINEAR, kind: True}
        adapted = adapters.adapt(base, settings, seed=seed)
        adapted.peft_config["default"].base_model_name_or_path = "org/Other-7B"
        adapted.save_pretrained(models / name)
        tokenizer().save_pretrained(models / name)
        save(adapted.merge_and_unload(), models / f"{name}-whole")
    (made.folder / "config" / "small.yaml").write_text(yaml.safe_dump(study()))
    made.snakemake("--cores", "2")
    return made


def test_adapters_answer_as_the_same_experts_whole(project):
    results = project.folder / "results" / "small" / "llama" / "records"

    def answers(experts):
        frame = pd.read_parquet(results / experts / "seed~0" / f"{TASK}.parquet")
        return frame.sort_values(["recipe", "id"])["output"].tolist()

    # In float32 the weights differ in their last places alone.
    for name in ("rslora", "dora"):
        assert answers(name) == answers(f"{name}-whole")


def test_sets_of_adapters_and_of_both_kinds_are_scored(project):
    scores = pd.read_parquet(project.folder / "results" / "small" / "scores.parquet")
    sets = {"rslora+dora", "rslora-whole+dora-whole", "rslora+dora-whole"}
    assert sets <= set(scores["experts"])
    assert not project.planned()


def test_an_imported_adapter_stays_an_adapter(project):
    experts = project.folder / "results" / "small" / "llama" / "experts"
    names = {path.name for path in (experts / "dora" / "seed~0").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "config.json" not in names
