"""Adapters of fine-tuned models: loaded by PEFT, with exact numbers, in any number of threads."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import plain_models
import pytest
import small_models
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from typer.testing import CliRunner

import mergegrid
from mergegrid import CheckpointError, ConfigError, DamagedError
from mergegrid.cli import app
from mergegrid.extraction.extract import ExtractionJob
from mergegrid.extraction.low_rank import RankRule

RANK = 6


def low_rank(shape, rank, seed, scale=2.0**-10):
    """A matrix of this rank whose elements are few multiples of `scale`: exact in any sum."""
    random = np.random.default_rng(seed)
    left, right = random.integers(-1, 2, (shape[0], rank)), random.integers(-1, 2, (rank, shape[1]))
    return torch.from_numpy((left @ right * scale).astype(np.float32))


def on_a_grid(model):
    """A float32 copy whose parameters are multiples of 2^-12, so that deltas are exact."""
    model = model.float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 4096).round() / 4096)
    return model


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A base in float32, and a model whose linear layers differ by matrices of rank 6."""
    place = tmp_path_factory.mktemp("exact")
    base = on_a_grid(small_models.llama())
    base.save_pretrained(place / "base")
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(base.named_parameters()):
            if "_proj" in name:
                parameter += low_rank(parameter.shape, RANK, seed)
    small_models.save(base, place / "model")
    return place


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A base in bfloat16 and its expert `math`, all of whose parameters differ."""
    return small_models.family(tmp_path_factory.mktemp("family"))


def merged_by_peft(base, adapter, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def product(folder, module):
    tensors = load_torch(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{module}.lora_{x}.weight"].double() for x in "AB")
    return b @ a


def test_a_delta_of_low_rank_is_recovered_exactly_by_peft(exact, tmp_path):
    report = mergegrid.extract(exact / "base", exact / "model", tmp_path / "adapter", rank=32)
    assert {one.rank for one in report.adapted} == {RANK}
    assert len(report.adapted) == 14
    assert all(one.error < 1e-6 for one in report.adapted)
    assert report.energy == pytest.approx(1, abs=1e-12)
    merged = merged_by_peft(exact / "base", tmp_path / "adapter")
    model = load_torch(exact / "model" / "model.safetensors")
    for name, tensor in model.items():
        assert torch.allclose(merged[name], tensor, rtol=0, atol=1e-8), name


def test_peft_adds_exactly_the_product_of_the_factors(family, tmp_path):
    mergegrid.extract(family / "base", family / "math", tmp_path / "adapter", rank=8)
    merged = merged_by_peft(family / "base", tmp_path / "adapter")
    base = load_torch(family / "base" / "model.safetensors")
    for name, tensor in base.items():
        expected = tensor.double()
        if "_proj" in name:
            expected = expected + product(tmp_path / "adapter", name.removesuffix(".weight"))
        assert torch.allclose(merged[name].double(), expected, rtol=0, atol=1e-7), name


def test_numbers_of_the_report_are_those_of_float64_algebra(family, tmp_path):
    report = mergegrid.extract(family / "base", family / "math", tmp_path / "adapter", rank=8)
    tensors = [load_torch(family / x / "model.safetensors") for x in ("base", "math")]
    deltas = {
        name: (tensors[1][name].float() - tensors[0][name].float()).double() for name in tensors[0]
    }
    assert sorted(deltas) == [one.tensor for one in report.tensors]
    whole = sum(float((delta**2).sum()) for delta in deltas.values())
    kept = 0.0
    for one in report.tensors:
        delta = deltas[one.tensor]
        assert one.squared_norm == pytest.approx(float((delta**2).sum()), rel=1e-12)
        if not one.rank:
            continue
        values = torch.linalg.svdvals(delta)
        best = float((values[:8] ** 2).sum() / (values**2).sum())
        assert 0.95 * best < one.energy <= best + 1e-12
        residual = delta - product(tmp_path / "adapter", one.tensor.removesuffix(".weight"))
        assert one.error == pytest.approx(float(residual.norm() / delta.norm()), rel=1e-9)
        assert one.error**2 == pytest.approx(1 - one.energy, abs=1e-6)
        kept += one.energy * one.squared_norm
    assert report.energy == pytest.approx(kept / whole, rel=1e-12)
    left_out = [note for note in report.notes if note.startswith("not in the adapter")]
    assert len(left_out) == 3
    assert "first model.embed_tokens.weight" in left_out[0]


def test_bytes_do_not_depend_on_threads(family, tmp_path):
    def files(threads):
        folder = tmp_path / str(threads) / "adapter"
        mergegrid.extract(family / "base", family / "math", folder, energy=0.8, threads=threads)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    one = files(1)
    assert one == files(2)
    assert one == files(7)


def test_another_seed_gives_other_bytes_and_nearly_the_same_energy(family, tmp_path):
    reports = [
        mergegrid.extract(family / "base", family / "math", tmp_path / str(s), rank=8, seed=s)
        for s in (0, 1)
    ]
    one, two = ((tmp_path / str(s) / "adapter_model.safetensors").read_bytes() for s in (0, 1))
    assert one != two
    assert reports[0].energy == pytest.approx(reports[1].energy, rel=0.02)


def test_with_an_energy_every_matrix_has_the_rank_that_it_needs(family, tmp_path):
    report = mergegrid.extract(family / "base", family / "math", tmp_path / "a", energy=0.7)
    assert all(one.energy >= 0.7 for one in report.adapted)
    assert len({one.rank for one in report.adapted}) > 1
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == max(one.rank for one in report.adapted)
    assert config["rank_pattern"] == config["alpha_pattern"]
    merged = merged_by_peft(family / "base", tmp_path / "a")
    base = load_torch(family / "base" / "model.safetensors")
    for one in report.adapted:
        expected = base[one.tensor].double() + product(
            tmp_path / "a", one.tensor.removesuffix(".weight")
        )
        assert torch.allclose(merged[one.tensor].double(), expected, rtol=0, atol=1e-7)


def test_an_energy_out_of_reach_is_a_note(family, tmp_path):
    report = mergegrid.extract(
        family / "base", family / "math", tmp_path / "a", energy=0.99, max_rank=4
    )
    assert {one.rank for one in report.adapted} == {4}
    assert any("14 of 14 matrices keep less than the energy 0.99" in note for note in report.notes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_error_includes_the_rounding_to_the_dtype(exact, tmp_path, dtype):
    report = mergegrid.extract(
        exact / "base", exact / "model", tmp_path / dtype, rank=RANK, dtype=dtype
    )
    tensors = load_torch(tmp_path / dtype / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    low, high = {"float32": (0, 1e-6), "bfloat16": (1e-4, 1e-2), "float16": (1e-5, 1e-3)}[dtype]
    assert all(low < one.error < high for one in report.adapted)


def test_matrices_without_a_delta_are_not_adapted(family, tmp_path):
    shutil.copytree(family / "base", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_torch(path)
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, path, {"format": "pt"})
    report = mergegrid.extract(family / "base", tmp_path / "model", tmp_path / "a", rank=4)
    assert [one.tensor for one in report.adapted] == [name]
    assert "13 matrices equal the base and are not adapted" in report.notes
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    # `q_proj` alone would adapt the other layer as well.
    assert config["target_modules"] == [name.removesuffix(".weight")]
    merged = merged_by_peft(family / "base", tmp_path / "a", torch.bfloat16)
    assert torch.equal(
        merged["model.layers.0.self_attn.q_proj.weight"],
        tensors["model.layers.0.self_attn.q_proj.weight"],
    )


def test_embeddings_are_adapted_on_request(family, tmp_path):
    report = mergegrid.extract(
        family / "base", family / "math", tmp_path / "a", rank=8, embeddings=True
    )
    assert {"lm_head.weight", "model.embed_tokens.weight"} < {one.tensor for one in report.adapted}
    merged = merged_by_peft(family / "base", tmp_path / "a")
    base = load_torch(family / "base" / "model.safetensors")
    tensors = load_torch(tmp_path / "a" / "adapter_model.safetensors")
    a, b = (
        tensors[f"base_model.model.model.embed_tokens.lora_embedding_{x}"].double() for x in "AB"
    )
    expected = base["model.embed_tokens.weight"].double() + (b @ a).T
    assert torch.allclose(merged["model.embed_tokens.weight"].double(), expected, rtol=0, atol=1e-7)
    expected = base["lm_head.weight"].double() + product(tmp_path / "a", "lm_head")
    assert torch.allclose(merged["lm_head.weight"].double(), expected, rtol=0, atol=1e-7)


def test_layers_stored_as_in_out_are_transposed_for_peft(tmp_path):
    torch.manual_seed(0)
    base = on_a_grid(GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64)))
    base.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(base.named_parameters()):
            if "c_attn.weight" in name or "c_fc.weight" in name:
                parameter += low_rank(parameter.shape, 4, seed)
    base.save_pretrained(tmp_path / "model")
    report = mergegrid.extract(tmp_path / "base", tmp_path / "model", tmp_path / "a", rank=8)
    assert {one.rank for one in report.adapted} == {4}
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["fan_in_fan_out"]
    merged = merged_by_peft(tmp_path / "base", tmp_path / "a")
    for name, tensor in base.state_dict().items():
        assert torch.allclose(merged[name], tensor, rtol=0, atol=1e-8), name


@pytest.mark.parametrize("use_dora", [False, True])
def test_the_rank_of_an_adapter_is_lowered_and_dora_becomes_plain(family, tmp_path, use_dora):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(family / "base", dtype=torch.float32)
    config = LoraConfig(r=8, target_modules=["q_proj", "down_proj"], use_dora=use_dora)
    peft = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.normal_(0, 0.05)
    peft.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(family / "base", dtype=torch.float32).state_dict()
    merged = merged_by_peft(family / "base", tmp_path / "adapter")
    report = mergegrid.extract(family / "base", tmp_path / "adapter", tmp_path / "low", rank=3)
    assert {one.rank for one in report.adapted} == {3}
    for one in report.adapted:
        delta = merged[one.tensor].double() - base[one.tensor].double()
        values = torch.linalg.svdvals(delta)
        best = float(values[3:].norm() / values.norm())
        # PEFT adds the delta to the base in float32, which rounds it.
        assert best * (1 - 1e-4) < one.error < 1.02 * best
        residual = delta - product(tmp_path / "low", one.tensor.removesuffix(".weight"))
        assert one.error == pytest.approx(float(residual.norm() / delta.norm()), rel=1e-4)


def test_experts_of_a_mixture_are_adapted_one_by_one_at_one_rank(tmp_path):
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        hidden_size=32, moe_intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, vocab_size=64, num_experts=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "experts" in name:
                parameter += torch.randn_like(parameter) * 1e-3
    model.save_pretrained(tmp_path / "model")
    # At the full rank of the experts, nothing is lost.
    report = mergegrid.extract(tmp_path / "base", tmp_path / "model", tmp_path / "a", rank=24)
    assert len(report.adapted) == 12
    merged = merged_by_peft(tmp_path / "base", tmp_path / "a")
    for name, tensor in model.state_dict().items():
        assert torch.allclose(merged[name], tensor, rtol=0, atol=1e-7), name
        assert torch.equal(tensor, start[name]) != ("experts" in name)
    report = mergegrid.extract(tmp_path / "base", tmp_path / "model", tmp_path / "b", energy=0.9)
    assert any("PEFT, which fuses them, loads one rank only" in note for note in report.notes)


def test_the_folder_is_complete_and_loads_with_the_safetensors_library(family, tmp_path):
    mergegrid.extract(family / "base", family / "math", tmp_path / "a", rank=4)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "README.md",
    }
    assert "tokenizer.json" in names
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert len(tensors) == 28
    made_from = json.loads((tmp_path / "a" / "manifest.json").read_text())["made_from"]
    assert made_from["extraction"]["most"] == 4
    assert set(made_from["inputs"]) == {"base", "model"}
    # What was published may be replaced; anything else may not.
    mergegrid.extract(family / "base", family / "math", tmp_path / "a", rank=2)
    (tmp_path / "a" / "mine.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"contains mine\.txt"):
        mergegrid.extract(family / "base", family / "math", tmp_path / "a", rank=2)


def test_the_command_prints_a_line_per_matrix_and_writes_a_table(family, tmp_path):
    arguments = ["extract", str(family / "base"), str(family / "math"), str(tmp_path / "a")]
    table = tmp_path / "table.csv"
    result = CliRunner().invoke(app, [*arguments, "--rank", "4", "--csv", str(table)])
    assert result.exit_code == 0, result.output
    assert "14 matrices adapted at rank 4: they keep" in result.output
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 21
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)
    assert {int(row["rank"]) for row in rows} == {0, 4}


def test_a_dry_run_states_the_plan_and_writes_nothing(family, tmp_path, caplog):
    arguments = ["extract", str(family / "base"), str(family / "math"), str(tmp_path / "a")]
    with caplog.at_level("INFO"):
        result = CliRunner().invoke(app, [*arguments, "--rank", "4", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "14 matrices at rank 4" in caplog.text
    assert "MB of memory" in caplog.text
    assert not list(tmp_path.iterdir())


def test_memory_limits_threads_or_refuses(family, tmp_path):
    job = ExtractionJob(family / "base", family / "math", tmp_path / "a", RankRule(4))
    extraction = job.open()
    four, one = extraction.plan(4), extraction.plan(1)
    assert one.memory < four.memory
    assert extraction.plan(4, (one.memory + four.memory) // 2).threads in (2, 3)
    with pytest.raises(ConfigError, match="one thread needs"):
        extraction.plan(4, 1000)


def test_damaged_inputs_are_named(family, tmp_path):
    mergegrid.merge(family / "base", {"math": family / "math"}, out=tmp_path / "published")
    path = tmp_path / "published" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="does not match"):
        mergegrid.extract(family / "base", tmp_path / "published", tmp_path / "a", rank=4)
    assert not (tmp_path / "a").exists()


def with_infinity(place):
    plain_models.family(place)
    tensors = {name: np.full(shape, np.inf) for name, shape in plain_models.shapes().items()}
    plain_models.save(place / "math" / "model.safetensors", tensors)


def damaged_adapter(place):
    plain_models.family(place)
    for path in (place / "math").iterdir():
        path.unlink()
    (place / "math" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (place / "math" / "adapter_model.safetensors").write_bytes(b"")


def other_shapes(place):
    plain_models.family(place)
    tensors = plain_models.normal(1, 0.02)
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((8, plain_models.WIDTH))
    plain_models.save(place / "math" / "model.safetensors", tensors)


def tied(place):
    small_models.family(place, tied=True)


def occupied(place):
    plain_models.family(place)
    (place / "a").mkdir()
    (place / "a" / "mine.txt").write_text("")


def file_in_place(place):
    plain_models.family(place)
    (place / "a").write_text("")


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (plain_models.family, {"rank": 65}, "rank 65 exceeds the largest possible rank, 64"),
        (plain_models.family, {"rank": 4, "dtype": "int8"}, "unknown dtype 'int8'"),
        (plain_models.family, {"rank": 4, "model": "absent"}, "there is no folder"),
        (plain_models.family, {"rank": 4, "model": "base"}, "nothing to extract"),
        (plain_models.family, {"rank": 4, "out": "math/a"}, "contain one another"),
        (plain_models.family, {"rank": 4, "max_memory": "1MB"}, "one thread needs"),
        (plain_models.family, {"rank": 4, "max_memory": "lots"}, "invalid size"),
        (plain_models.family, {"rank": 0}, "rank 0 is not positive"),
        (plain_models.family, {"rank": 4, "energy": 0.5}, "exactly one"),
        (tied, {"rank": 4, "embeddings": True}, "are tied"),
        (with_infinity, {"rank": 4}, "not finite"),
        (damaged_adapter, {"rank": 4}, "not a rank of at least 1"),
        (other_shapes, {"rank": 4}, "only models of equal shapes"),
        (occupied, {"rank": 4}, r"contains mine\.txt"),
        (file_in_place, {"rank": 4}, "exists and is not a directory"),
    ],
)
def test_bad_inputs_are_refused_and_nothing_is_written(tmp_path, prepare, options, message):
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    model = tmp_path / options.pop("model", "math")
    out = tmp_path / options.pop("out", "a")
    with pytest.raises((ConfigError, CheckpointError), match=message):
        mergegrid.extract(tmp_path / "base", model, out, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_guide_works(tmp_path, monkeypatch, capsys):
    guide = (Path(__file__).parents[3] / "docs" / "extract.md").read_text()
    plain_models.family(tmp_path / "models", base="llama", math="llama-math")
    monkeypatch.chdir(tmp_path)
    commands = [
        shlex.split(line, comments=True)[1:]
        for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("mergegrid extract")
    ]
    assert len(commands) == 3
    for arguments in commands:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "energies.csv").is_file()
    for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(block, {})
    assert "matrices adapted" in capsys.readouterr().out
