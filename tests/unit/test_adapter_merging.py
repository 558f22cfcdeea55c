"""Adapters merged into one adapter: made and loaded by PEFT, compared with float64 sums."""

import json

import pytest
import small_models
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import mergegrid
from mergegrid import Average, CheckpointError, ConfigError, Dare, Output, TaskArithmetic, Ties
from mergegrid.api import job_of, run_job

ADAPTER = Output(form="adapter")


def train(base, folder, seed, **settings):
    """An adapter with random factors, saved by PEFT."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**({"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | settings))
    peft = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.05)
    peft.save_pretrained(folder)
    return folder


def merged_by_peft(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def expected_of(base, factors):
    """base + sum of factor * delta, where PEFT computes the deltas in float32."""
    start = {
        name: tensor.double()
        for name, tensor in AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        .state_dict()
        .items()
    }
    total = dict(start)
    for adapter, factor in factors.items():
        merged = merged_by_peft(base, adapter)
        for name in start:
            total[name] = total[name] + factor * (merged[name].double() - start[name])
    return total


def check(base, folder, factors, tolerance=1e-7):
    merged, expected = merged_by_peft(base, folder), expected_of(base, factors)
    changed = 0
    for name, tensor in merged.items():
        assert torch.allclose(tensor.double(), expected[name], rtol=0, atol=tolerance), name
        changed += not torch.equal(expected[name], expected_of(base, {})[name])
    assert changed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base and adapters of different layers, ranks and scales."""
    place = tmp_path_factory.mktemp("adapters")
    small_models.llama().save_pretrained(place / "base")
    base = place / "base"
    train(base, place / "one", 1, target_modules=["q_proj", "v_proj"])
    train(base, place / "two", 2, r=6, target_modules=["q_proj", "up_proj"], use_rslora=True)
    train(
        base, place / "three", 3, target_modules=["q_proj", "down_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 9}, alpha_pattern={"down_proj": 3},
    )  # fmt: skip
    return place


def experts(place, *names):
    return {name: place / name for name in names}


@pytest.mark.parametrize(
    ("method", "factors"),
    [
        (Average(), {"one": 1 / 3, "two": 1 / 3, "three": 1 / 3}),
        (
            Average(weights={"one": 2, "two": 1, "three": 1}),
            {"one": 0.5, "two": 0.25, "three": 0.25},
        ),
        (
            TaskArithmetic(coefficient=0.5, coefficients={"two": -2.0}),
            {"one": 0.5, "two": -1.0, "three": 0.5},
        ),
    ],
)
def test_the_merged_adapter_is_the_sum_that_the_method_is(place, tmp_path, method, factors):
    mergegrid.merge(
        *(place / "base", experts(place, *factors)), method=method, out=tmp_path / "out",
        output=ADAPTER,
    )  # fmt: skip
    check(place / "base", tmp_path / "out", {place / name: f for name, f in factors.items()})
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 4 + 6 + 9
    assert config["rank_pattern"]["model.layers.0.self_attn.q_proj"] == 4 + 6 + 4


def test_one_adapter_of_weight_one_comes_back_at_its_rank(place, tmp_path):
    mergegrid.merge(place / "base", experts(place, "two"), out=tmp_path / "out", output=ADAPTER)
    check(place / "base", tmp_path / "out", {place / "two": 1.0})
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 6


def test_numbers_by_layer_are_used_layer_by_layer(place, tmp_path):
    gradient = TaskArithmetic(coefficient={"gradient": [0.25, 1.0]})
    mergegrid.merge(
        place / "base", experts(place, "one"), method=gradient, out=tmp_path / "out", output=ADAPTER
    )
    merged = merged_by_peft(place / "base", tmp_path / "out")
    for layer, factor in ((0, 0.25), (1, 1.0)):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        expected = expected_of(place / "base", {place / "one": factor})[name]
        assert torch.allclose(merged[name].double(), expected, rtol=0, atol=1e-7)


def test_a_lower_rank_states_its_error(place, tmp_path, caplog):
    with caplog.at_level("INFO"):
        mergegrid.merge(
            *(place / "base", experts(place, "one", "two")), out=tmp_path / "out",
            output=Output(form="adapter", rank=3),
        )  # fmt: skip
    assert "layers at rank 3: every layer keeps at least" in caplog.text
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(3 in tensor.shape for tensor in tensors.values())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "6 layers at rank 3" in card
    # The error of the layer that has the largest is that of the best approximation.
    name = "model.layers.0.self_attn.q_proj.weight"
    delta = expected_of(place / "base", {place / "one": 0.5, place / "two": 0.5})[name]
    delta -= expected_of(place / "base", {})[name]
    values = torch.linalg.svdvals(delta)
    a, b = (tensors[f"base_model.model.{name[:-7]}.lora_{x}.weight"].double() for x in "AB")
    best = values[3:].norm()
    assert float((delta - b @ a).norm()) == pytest.approx(float(best), rel=1e-4)


def test_trained_biases_are_summed(tmp_path):
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=64,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    biases = {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}
    train(tmp_path / "base", tmp_path / "one", 1, **biases)
    train(tmp_path / "base", tmp_path / "two", 2, target_modules=["q_proj"])
    mergegrid.merge(
        *(tmp_path / "base", experts(tmp_path, "one", "two")), method=TaskArithmetic(),
        out=tmp_path / "out", output=ADAPTER,
    )  # fmt: skip
    check(tmp_path / "base", tmp_path / "out", {tmp_path / "one": 1.0, tmp_path / "two": 1.0})
    train(tmp_path / "base", tmp_path / "three", 3, target_modules=["o_proj"])
    with pytest.raises(ConfigError, match="lora_bias"):
        mergegrid.merge(
            *(tmp_path / "base", experts(tmp_path, "one", "three")), out=tmp_path / "no",
            output=ADAPTER,
        )  # fmt: skip


def test_embeddings_and_transposed_layers_are_merged(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, tie_word_embeddings=False)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    for seed, name in enumerate(["one", "two"]):
        targets = {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}
        train(tmp_path / "base", tmp_path / name, seed, **targets)
    mergegrid.merge(
        tmp_path / "base", experts(tmp_path, "one", "two"), out=tmp_path / "out", output=ADAPTER
    )
    check(tmp_path / "base", tmp_path / "out", {tmp_path / "one": 0.5, tmp_path / "two": 0.5})


def test_adapters_that_cancel_are_an_error(place, tmp_path):
    opposite = TaskArithmetic(coefficients={"copy": -1.0})
    folders = {"one": place / "one", "copy": place / "one"}
    with pytest.raises(CheckpointError, match="cancel"):
        mergegrid.merge(
            place / "base", folders, method=opposite, out=tmp_path / "out", output=ADAPTER
        )
    assert not list(tmp_path.iterdir())


def test_a_merge_file_writes_one_adapter_per_recipe(place, tmp_path):
    (tmp_path / "merge.yaml").write_text(
        json.dumps(
            {
                "base": str(place / "base"),
                "experts": {"one": str(place / "one"), "two": str(place / "two")},
                "method": {"kind": "task_arithmetic", "coefficient": [0.5, 1.0]},
                "output": {"form": "adapter", "dtype": "bfloat16"},
            }
        )
    )
    job = job_of(tmp_path / "merge.yaml", tmp_path / "out")
    assert run_job(job, dry_run=True) == []
    assert not (tmp_path / "out").exists()
    folders = run_job(job)
    assert len(folders) == 2
    for folder in folders:
        tensors = load_file(folder / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["weights"]["tensors"]) == set(tensors)
        assert set(manifest["made_from"]["inputs"]) == {"one", "two"}
    # Rerunning replaces them with the same bytes.
    before = [(folder / "adapter_model.safetensors").read_bytes() for folder in folders]
    run_job(job)
    assert before == [(folder / "adapter_model.safetensors").read_bytes() for folder in folders]


def whole_model(place):
    small_models.save(small_models.finetuned(small_models.llama(), 1), place / "two")


def dora(place):
    train(place / "base", place / "two", 2, target_modules=["q_proj"], use_dora=True)


def saved_modules(place):
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}
    train(place / "base", place / "two", 2, **settings)


def damaged(place):
    train(place / "base", place / "two", 2, target_modules=["q_proj"])
    path = place / "two" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[min(tensors)][0] = float("nan")
    save_file(tensors, path)


def plain(place):
    train(place / "base", place / "two", 2, target_modules=["q_proj"])


@pytest.mark.parametrize(
    ("prepare", "settings", "message"),
    [
        (whole_model, {}, "is not a LoRA adapter"),
        (dora, {}, "uses DoRA"),
        (saved_modules, {}, "modules_to_save"),
        (damaged, {}, "NaN or infinity"),
        (plain, {"method": Ties()}, "ties with these settings is not the base plus a sum"),
        (plain, {"sparsifier": Dare(rate=0.5)}, "dare drops single deltas"),
        (plain, {"method": Average(normalize=False)}, "not the base plus a sum"),
        (plain, {"method": Average(weights={"nobody": 1})}, "nobody, which is not an expert"),
        (plain, {"out": None}, "an adapter is written to a folder"),
        (plain, {"statistics": {"one": "one.safetensors"}}, "omit `statistics`"),
    ],
)
def test_what_is_no_sum_of_products_is_refused(tmp_path, prepare, settings, message):
    small_models.llama().save_pretrained(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "one", 1, target_modules=["q_proj"])
    prepare(tmp_path)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        mergegrid.merge(
            tmp_path / "base",
            experts(tmp_path, "one", "two"),
            **({"out": tmp_path / "out", "output": ADAPTER} | settings),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [{"rank": 4}, {"form": "adapter", "rank": 0}, {"form": "adapter", "shard_size": "1GB"}],
)
def test_outputs_of_two_forms_are_refused(settings):
    with pytest.raises(ValueError, match=r"rank|shard_size"):
        Output(**settings)
