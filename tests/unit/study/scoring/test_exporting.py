"""Merged models that a study keeps: which of the candidates, and what their cards say."""

import json
import warnings

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from plain_models import WIDTH, family, save
from pydantic import ValidationError

from mergegrid.checkpoints.inspection import inspect
from mergegrid.checkpoints.sources.fetch import Record
from mergegrid.methods.emr import Emr
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.encoders import EncoderStudy
from mergegrid.study.schema.export_jobs import export_request, exported_sets
from mergegrid.study.scoring.exporting import export, parents_of, recipes_to_keep
from mergegrid.study.scoring.scores import Measurement, score_frame, score_row

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXPERTS = ("code", "math")


def decoders(**changes):
    """Two ready experts, two settings of one method, and two mask seeds."""
    records = {"source": "hub:openai/gsm8k", "config": "main", "split": "test"}
    experts = {name: {"source": {"source": f"hub:org/{name}"}, "benchmarks": [f"{name}_words"]}
               for name in EXPERTS}  # fmt: skip
    values = {
        "benchmarks": {f"{name}_words": {"kind": "gsm8k", "records": records} for name in EXPERTS},
        "families": {"llama": {"base": {"source": "hub:org/base"}, "experts": experts}},
        "seeds": {"mask": [0, 1]},
        "rates": [0.5],
        "merges": {
            "methods": [{"kind": "task_arithmetic", "coefficient": [0.5, 1.0]}],
            "sparsifiers": [{"kind": "dare"}],
        },
        "export": ["selected"],
    }
    return DecoderStudy.model_validate(values | changes)


def encoders(**changes):
    table = {"source": "path:."}
    task = {"text": ["text"], "labels": [0, 1], "metric": "accuracy", "train": table}
    values = {
        "tasks": dict.fromkeys(EXPERTS, task),
        "families": {"bert": {"base": {"source": "path:.", "licence": "MIT"},
                              "experts": {name: {} for name in EXPERTS}}},
        "export": ["selected"],
    }  # fmt: skip
    return EncoderStudy.model_validate(values | changes)


def record(source, kind="model", licence="apache-2.0"):
    return Record(source, kind, COMMIT, None, licence, {}, 0)


def records(**licences):
    found = {f"expert~llama~{name}": record(f"hub:org/{name}") for name in EXPERTS}
    found |= {"base~llama": record("hub:org/base")}
    for name in EXPERTS:
        found[f"benchmark~{name}_words"] = record("hub:openai/gsm8k", "dataset", "mit")
    return found


def scores(study, chosen):
    """Scores of all merges of a set; those with a coefficient of `chosen` are selected."""
    rows = []
    for number, recipe in enumerate(study.merge_recipes("llama", EXPERTS, 0)):
        for head in EXPERTS:
            for split in ("validation", "test"):
                measured = Measurement(0.01 * number + (split == "test") / 2, 0.1, 20)
                rows.append(
                    score_row("merges", recipe, head, f"{head}_words", "accuracy", split, measured,
                              selected=recipe.method.coefficient == chosen,
                              selection="validation", inputs_digest="0" * 64)
                )  # fmt: skip
    return score_frame(rows)


def test_the_selected_setting_is_kept_with_the_scores_of_its_first_mask_seed(tmp_path):
    models = family(tmp_path)
    study = decoders()
    request = export_request(study, "llama", EXPERTS, 0)
    table = scores(study, chosen=1.0)
    (folder,) = export(
        request, table, models / "base", {name: models / name for name in EXPERTS}, {},
        records(), tmp_path / "exports", 1,
    )  # fmt: skip
    assert folder.name == "dare~rate=0.5~seed=0+task_arithmetic~coefficient=1.0"
    assert inspect(folder).verified
    made_from = json.loads((folder / "manifest.json").read_text())["made_from"]
    rows = table[
        (table["recipe_digest"] == made_from["recipe_digest"]) & (table["split"] == "test")
    ]
    assert len(rows) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == ["org/base", "org/code", "org/math"]
    assert card.data.license == "apache-2.0"
    on_card = {result.metric_name: result for result in card.data.eval_results}
    for row in rows.to_dict(orient="records"):
        result = on_card[f"{row['task']}: accuracy"]
        assert result.metric_value == row["value"]
        assert (result.task_type, result.metric_type) == ("text-generation", "accuracy")
        assert (result.dataset_type, result.dataset_config) == ("openai/gsm8k", "main")
        assert (result.dataset_split, result.dataset_revision) == ("test", COMMIT)
        (entry,) = yaml.safe_load((folder / ".eval_results" / f"{row['task']}.yaml").read_text())
        assert entry["value"] == row["value"]
        assert entry["dataset"] == {
            "id": "openai/gsm8k", "task_id": "gsm8k", "revision": COMMIT
        }  # fmt: skip
        assert f"{row['value']:.4f} ± 0.1000 | 20 |" in card.text
    assert str(tmp_path) not in card.content


@pytest.mark.parametrize("base_is", ["org/Other-7B", ["org/Another", "org/Other-7B"]])
def test_adapters_that_name_the_base_as_the_family_says_are_exported(tmp_path, base_is):
    models = family(tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    factors = {"lora_A": np.ones((1, WIDTH)), "lora_B": np.ones((WIDTH, 1))}
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{module}.{name}.weight": factor for name, factor in factors.items()}
    save(adapter / "adapter_model.safetensors", weights, "F32")
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    config = json.dumps({**settings, "base_model_name_or_path": "org/Other-7B"})
    (adapter / "adapter_config.json").write_text(config)
    study = decoders()
    study.families["llama"] = study.families["llama"].model_copy(update={"base_is": base_is})
    experts = {"code": models / "code", "math": adapter}
    request = export_request(study, "llama", EXPERTS, 0)
    (folder,) = export(
        request, scores(study, chosen=1.0), models / "base", experts, {}, records(),
        tmp_path / "exports", 1,
    )  # fmt: skip
    assert inspect(folder).verified


def test_a_method_of_one_model_per_expert_keeps_each_with_its_own_scores(tmp_path):
    models = family(tmp_path)
    methods = [{"kind": "emr", "expert": list(EXPERTS)}]
    study = decoders(merges={"methods": methods, "sparsifiers": [{"kind": "none"}]})
    unset = Recipe(family="llama", experts=EXPERTS, method=Emr())
    request = export_request(study, "llama", EXPERTS, 0)
    request = request.model_copy(update={"methods": [Emr()]})
    measured = {
        head: Measurement(value, 0.1, 20) for head, value in zip(EXPERTS, (0.25, 0.75), strict=True)
    }
    rows = [
        score_row("merges", unset, head, f"{head}_words", "accuracy", "test", measured[head],
                  selected=True, selection="validation", inputs_digest="0" * 64)
        for head in EXPERTS
    ]  # fmt: skip
    folders = export(
        request, score_frame(rows), models / "base", {name: models / name for name in EXPERTS},
        {}, records(), tmp_path / "exports", 1,
    )  # fmt: skip
    assert [folder.name for folder in folders] == [f"none+emr~expert={head}" for head in EXPERTS]
    for folder, head in zip(folders, EXPERTS, strict=True):
        (result,) = ModelCard.load(folder / "README.md").data.eval_results
        assert result.metric_name == f"{head}_words: accuracy"
        assert result.metric_value == measured[head].value
    # Selected for one task, it is kept for that one alone.
    table = score_frame(rows)
    table.loc[table["head"] == "code", "selected"] = False
    (folder,) = export(
        request, table, models / "base", {name: models / name for name in EXPERTS},
        {}, records(), tmp_path / "others", 1,
    )  # fmt: skip
    assert folder.name == "none+emr~expert=math"


def test_a_named_merge_is_kept_and_no_other():
    name = "llama/code+math/dare~rate=0.5~seed=1/task_arithmetic~coefficient=0.5"
    study = decoders(export=[name])
    request = export_request(study, "llama", EXPERTS, 0)
    kept = recipes_to_keep(request, scores(study, chosen=1.0))
    assert [recipe.slug for recipe in kept] == [name]
    assert exported_sets(study) == [("llama", "code+math", 0)]
    both = decoders(export=[name, "selected"])
    request = export_request(both, "llama", EXPERTS, 0)
    assert len(recipes_to_keep(request, scores(both, chosen=1.0))) == 2


def test_a_study_that_exports_nothing_has_no_job():
    assert exported_sets(decoders(export=[])) == []
    assert exported_sets(None) == []


def test_an_expert_fine_tuned_here_has_the_license_of_its_base():
    request = export_request(encoders(), "bert", EXPERTS, 0)
    known = {"base~bert": record("path:.", licence="not stated")}
    parents = parents_of(request, known)
    assert {parent.licence.identifier for parent in parents.values()} == {"mit"}
    assert [parent.name for parent in parents.values()] == ["bert", "code", "math"]
    # A license in the configuration is a parameter of the job: a change rewrites the card.
    changed = {"base": {"source": "path:.", "licence": "own terms"}}
    experts = {"experts": {name: {} for name in EXPERTS}}
    study = encoders(families={"bert": changed | experts})
    assert export_request(study, "bert", EXPERTS, 0) != request


@pytest.mark.parametrize("make", [decoders, encoders])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"export": ["best"]}, "'best', which is not a merge of this study.*selected.*such as"),
        ({"export": ["selected", "selected"]}, "listed more than once"),
        ({"merges": None}, "no sets are merged; add `merges`"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_any_work(make, changes, words):
    with pytest.raises(ValidationError, match=words):
        make(**changes)
