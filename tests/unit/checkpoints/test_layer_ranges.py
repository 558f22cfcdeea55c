"""Stacked layers against models assembled by hand, and what transformers makes of them."""

import copy
import json

import numpy as np
import pytest
import small_models
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from mergegrid.api import inspect, job_of, merge, open_model, run_job
from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.layer_configs import stacked_config
from mergegrid.checkpoints.layer_ranges import check_slices, layer_numbers, stack
from mergegrid.errors import CheckpointError, ConfigError, DamagedError
from mergegrid.methods.average import Average
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.output import Output
from mergegrid.sparsifiers.dare import Dare

LAYERS = 4
TOKENS = torch.tensor([[1, 5, 9, 30, 2, 7]])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder of a base of four layers and its experts, far enough from it to tell apart."""
    folder = tmp_path_factory.mktemp("models")
    base = small_models.llama(num_hidden_layers=LAYERS).float()
    small_models.save(base, folder / "base")
    for seed, name in enumerate(["math", "code"], start=1):
        expert = copy.deepcopy(base)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        small_models.save(expert, folder / name)
    return folder


def merged(models, out, method=None, layers=(), sparsifier=None, names=("math", "code"), **options):
    folders = {name: models / name for name in names}
    output = Output.model_validate({"layers": layers})
    return merge(models / "base", folders, sparsifier, method, out=out, output=output, **options)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_passed_layers_make_the_model_that_is_assembled_by_hand(models, tmp_path):
    layers = [{"base": [0, 2]}, {"math": [1, 4]}, {"code": [3, 4]}]
    out = merged(models, tmp_path / "out", layers=layers)
    parts = {name: load(models / name) for name in ("base", "math", "code")}
    expected = small_models.llama(num_hidden_layers=6).float()
    expected.model.embed_tokens = parts["base"].model.embed_tokens
    places = [("base", 0), ("base", 1), ("math", 1), ("math", 2), ("math", 3), ("code", 3)]
    for number, (name, layer) in enumerate(places):
        state = parts[name].model.layers[layer].state_dict()
        expected.model.layers[number].load_state_dict(state)
    # As in mergekit: what stands behind the layers is that of the last slice.
    expected.model.norm, expected.lm_head = parts["code"].model.norm, parts["code"].lm_head
    expected.save_pretrained(tmp_path / "expected")
    stacked = load(out)
    assert stacked.config.num_hidden_layers == 6
    assert torch.equal(stacked(TOKENS).logits, load(tmp_path / "expected")(TOKENS).logits)


@pytest.mark.parametrize(
    "method", [Average(), TaskArithmetic(coefficient=0.3), Ties(trim=0.5), Average(normalize=True)]
)
@pytest.mark.parametrize("sparsifier", [None, Dare(rate=0.5)])
def test_every_method_leaves_passed_layers_as_they_are(models, tmp_path, method, sparsifier):
    layers = [{"math": [0, 3]}, {"code": [2, 4]}]
    out = open_model(merged(models, tmp_path / "out", method, layers, sparsifier))
    math, code = open_model(models / "math"), open_model(models / "code")
    for name in out:
        if name.startswith("model.layers."):
            number = int(name.split(".")[2])
            source, at = (math, number) if number < 3 else (code, number - 1)
            expected = source[name.replace(f"layers.{number}.", f"layers.{at}.")]
        else:
            expected = (math if "embed" in name else code)[name]
        assert out[name].tobytes() == expected.tobytes()


def test_slerp_from_the_base_leaves_passed_layers_as_they_are(models, tmp_path):
    layers = [{"math": [0, 2]}, {"base": [1, 4]}]
    out = open_model(merged(models, tmp_path / "out", Slerp(t=0.3), layers, names=("math",)))
    for number in range(5):
        source, at = (models / "math", number) if number < 2 else (models / "base", number - 1)
        name = "model.layers.{}.mlp.up_proj.weight"
        expected = open_model(source)[name.format(at)]
        assert out[name.format(number)].tobytes() == expected.tobytes()


def test_slices_of_all_models_are_merged(models, tmp_path):
    whole = {"base": [0, LAYERS], "math": [0, LAYERS], "code": [0, LAYERS]}
    plain = open_model(merged(models, tmp_path / "plain", Ties(trim=0.5, scope="per_tensor")))
    method = Ties(trim=0.5, scope="per_tensor")
    same = open_model(merged(models, tmp_path / "same", method, [whole]))
    assert list(same) == list(plain)
    assert all(np.array_equal(same[name], plain[name]) for name in plain)
    ends = [
        {name: [0, 3] for name in whole},
        {name: [1, 4] for name in whole},
    ]
    longer = open_model(merged(models, tmp_path / "longer", method, ends))
    for number in range(6):
        at = number if number < 3 else number - 2
        for part in ("mlp.up_proj.weight", "input_layernorm.weight"):
            expected = plain[f"model.layers.{at}.{part}"]
            assert np.array_equal(longer[f"model.layers.{number}.{part}"], expected)


def test_models_may_have_different_ranges_in_a_slice(models, tmp_path):
    layers = [{"base": [0, 2], "math": [2, 4], "code": [1, 3]}]
    method = TaskArithmetic(coefficient=0.5)
    out = open_model(merged(models, tmp_path / "out", method, layers))
    base, math, code = (open_model(models / name) for name in ("base", "math", "code"))
    name = "model.layers.{}.self_attn.q_proj.weight"
    for number in range(2):
        start = base[name.format(number)]
        deltas = math[name.format(number + 2)] - start + code[name.format(number + 1)] - start
        expected = start + np.float32(0.5) * deltas
        np.testing.assert_allclose(out[name.format(number)], expected, rtol=1e-6, atol=1e-8)
    assert len([name for name in out if "q_proj" in name]) == 2


def test_parameters_are_by_layer_of_the_output(models, tmp_path):
    layers = [{name: [0, 3] for name in ("base", "math")}, {"math": [2, 4]}]
    method = TaskArithmetic.model_validate(
        {"coefficient": {"rules": [{"tensors": "layers 1-2", "value": 0}], "default": 1}}
    )
    out = open_model(merged(models, tmp_path / "out", method, layers, names=("math",)))
    name = "model.layers.{}.mlp.up_proj.weight"
    base, math = open_model(models / "base"), open_model(models / "math")
    np.testing.assert_allclose(out[name.format(0)], math[name.format(0)], rtol=1e-6, atol=1e-7)
    for number in (1, 2):
        assert np.array_equal(out[name.format(number)], base[name.format(number)])


@pytest.mark.parametrize("threads", [2, 7])
def test_threads_change_no_bit_and_layers_are_in_the_manifest(models, tmp_path, threads):
    layers = [{"base": [0, 3], "math": [0, 3], "code": [0, 3]}, {"code": [1, 4]}]
    digests = {
        inspect(
            merged(models, tmp_path / str(count), Ties(), layers, Dare(rate=0.5), threads=count)
        ).digest
        for count in (1, threads)
    }
    assert len(digests) == 1
    manifest = json.loads((tmp_path / "1" / "manifest.json").read_text())
    assert manifest["made_from"]["output"]["layers"] == layers


def test_layers_of_an_adapter_are_those_of_its_merged_model(models, tmp_path):
    torch.manual_seed(7)
    settings = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(load(models / "base"), settings)
    adapted.save_pretrained(tmp_path / "lora")
    whole = adapted.merge_and_unload()
    small_models.save(whole, tmp_path / "whole")
    layers = [
        {"base": [0, 2], "lora": [0, 2]},
        {"base": [0, 2], "lora": [2, 4]},
        {"lora": [1, 3]},
        {"base": [3, 4]},
    ]
    method = TaskArithmetic(coefficient=0.5)
    output = Output.model_validate({"layers": layers})
    options = {"method": method, "output": output, "base_is": "base"}
    by_adapter, by_model = (
        open_model(merge(models / "base", {"lora": tmp_path / name}, out=tmp_path / out, **options))
        for name, out in (("lora", "by-adapter"), ("whole", "by-model"))
    )
    assert list(by_adapter) == list(by_model)
    for name in by_model:
        np.testing.assert_allclose(by_adapter[name], by_model[name], rtol=1e-5, atol=1e-7)
        assert by_adapter.infos[name].dtype == by_model.infos[name].dtype
    passed = open_model(tmp_path / "whole")["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_allclose(by_adapter["model.layers.4.mlp.up_proj.weight"], passed, atol=1e-7)


def test_changed_bytes_of_a_published_input_are_found(models, tmp_path):
    for name in ("base", "math"):
        merge(models / name, {"copy": models / name}, out=tmp_path / name)
    path = tmp_path / "math" / "model.safetensors"
    header = int.from_bytes(path.read_bytes()[:8], "little")
    offsets = json.loads(path.read_bytes()[8 : 8 + header])
    start = offsets["model.layers.3.mlp.up_proj.weight"]["data_offsets"][0]
    with path.open("r+b") as file:
        file.seek(8 + header + start)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    layers = [{"base": [0, 4]}, {"math": [2, 4]}]
    with pytest.raises(DamagedError, match=r"model.layers.3.mlp.up_proj.weight in .*math"):
        merged(tmp_path, tmp_path / "out", layers=layers, names=("math",))
    assert not (tmp_path / "out").exists()
    layers = [{"base": [0, 4]}, {"math": [1, 2]}]
    merged(tmp_path, tmp_path / "out", layers=layers, names=("math",))


def test_a_merge_file_stacks_layers(models, tmp_path):
    output = {"layers": [{"base": [0, 1]}, {"base": [0, 4], "math": [0, 4], "code": [0, 4]}]}
    for name in ("base", "math", "code"):
        (tmp_path / name).symlink_to(models / name)
    path = small_models.recipe(tmp_path, output=output)
    run_job(job_of(path, tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 5
    assert load(tmp_path / "out")(TOKENS).logits.isfinite().all()


def test_the_tokens_of_gpt2_go_through_stacked_layers(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64,
        n_embd=32,
        n_layer=3,
        n_head=2,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = GPT2LMHeadModel(config)
    for name in ("base", "copy"):
        small_models.save(model, tmp_path / name)
    layers = [{"base": [0, 2]}, {"copy": [1, 3]}]
    output = Output.model_validate({"layers": layers})
    out = merge(tmp_path / "base", {"copy": tmp_path / "copy"}, out=tmp_path / "out", output=output)
    expected = copy.deepcopy(model)
    blocks = [copy.deepcopy(expected.transformer.h[number]) for number in (0, 1, 1, 2)]
    expected.transformer.h = torch.nn.ModuleList(blocks)
    for number, block in enumerate(expected.transformer.h):
        block.attn.layer_idx = number
    expected.config.n_layer = 4
    stacked = load(out)
    assert len(stacked.transformer.h) == 4
    assert torch.equal(stacked(TOKENS).logits, expected.eval()(TOKENS).logits)


def test_kinds_of_layers_go_with_them(tmp_path):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=3, max_position_embeddings=64,
    )  # fmt: skip
    for name in ("base", "copy"):
        small_models.save(Gemma2ForCausalLM(config), tmp_path / name)
    kinds = json.loads((tmp_path / "base" / "config.json").read_text())["layer_types"]
    layers = [{"base": [0, 2]}, {"copy": [1, 4]}]
    output = Output.model_validate({"layers": layers})
    out = merge(tmp_path / "base", {"copy": tmp_path / "copy"}, out=tmp_path / "out", output=output)
    stacked = load(out)
    assert stacked.config.layer_types == [kinds[number] for number in (0, 1, 1, 2, 3)]
    assert stacked(TOKENS).logits.isfinite().all()
    mixed = Output.model_validate({"layers": [{"base": [0, 2], "copy": [1, 3]}]})
    with pytest.raises(CheckpointError, match=r"from layers 0 and 1, which differ in layer_types"):
        merge(tmp_path / "base", {"copy": tmp_path / "copy"}, out=tmp_path / "no", output=mixed)
    assert not (tmp_path / "no").exists()


def test_layer_numbers_are_those_of_the_sources():
    slices = [{"base": (0, 2)}, {"base": (1, 3), "a": (2, 4)}]
    assert layer_numbers(slices) == [{0}, {1}, {1, 2}, {2, 3}]


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([{"maths": (0, 1)}], "output.layers.0 refers to maths, which is not an expert; choose"),
        ([{}], "output.layers.0 has layers of no model; give those of all models"),
        (
            [{"base": (0, 1)}, {"base": (0, 1), "math": (0, 1)}],
            "output.layers.1 has layers of base and math; give those of all models .base, code",
        ),
        ([{"base": (2, 2)}], r"output.layers.0.base = \[2, 2\] is empty; the end is the layer"),
        ([{"base": (3, 1)}], r"output.layers.0.base = \[3, 1\] is empty"),
        ([{"base": (-1, 1)}], r"output.layers.0.base = \[-1, 1\] is empty"),
        (
            [{"base": (0, 2), "math": (0, 3), "code": (0, 2)}],
            "output.layers.0 has ranges of 2 and 3 layers; layers are merged one by one",
        ),
    ],
)
def test_slices_that_do_not_fit_are_refused(slices, message, models, tmp_path):
    with pytest.raises(ValueError, match=message):
        check_slices(slices, ["math", "code"])
    with pytest.raises(ConfigError, match=message):
        merged(models, tmp_path / "out", layers=slices)
    assert not (tmp_path / "out").exists()


def test_a_range_beyond_the_layers_is_refused(models, tmp_path):
    with pytest.raises(CheckpointError, match=r"layers.1.math = \[2, 5\] exceeds the 4 layers"):
        merged(models, tmp_path / "out", layers=[{"base": [0, 2]}, {"math": [2, 5]}])
    assert not (tmp_path / "out").exists()


def test_encoder_and_decoder_are_not_stacked(tmp_path):
    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    for name in ("base", "copy"):
        small_models.save(model, tmp_path / name)
    output = Output.model_validate({"layers": [{"base": [0, 1]}]})
    with pytest.raises(CheckpointError, match=r"several stacks of them .decoder.block, encoder"):
        merge(tmp_path / "base", {"copy": tmp_path / "copy"}, out=tmp_path / "out", output=output)


def test_layers_of_several_kinds_are_not_stacked():
    base = InMemory(
        {"layers.0.a": np.zeros(2), "layers.1.a": np.zeros(2), "layers.1.b": np.ones(1)}
    )
    with pytest.raises(CheckpointError, match=r"layers.1 of the base has other tensors or shapes"):
        stack({"": base}, [{"base": (0, 1)}])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 8}, "states no single number of layers"),
        (
            {"num_hidden_layers": 2, "mlp_only_layers": [1]},
            r"mlp_only_layers = \[1\] makes the kind",
        ),
        ({"num_hidden_layers": 2, "decoder_sparse_step": 2}, "decoder_sparse_step = 2 makes"),
        ({"num_hidden_layers": 2, "sliding_window_pattern": 6}, "sliding_window_pattern = 6 makes"),
        ({"num_hidden_layers": 2, "model_type": "gemma2"}, "model_type = 'gemma2' makes the kind"),
        (
            {"num_hidden_layers": 2, "use_sliding_window": True, "max_window_layers": 1},
            "max_window_layers = 1 makes the kind",
        ),
        ({"n_layer": 2, "attention_types": [[["global"], 2]]}, "attention_types = "),
        (
            {"n_layer": 2, "scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx = True makes",
        ),
    ],
)
def test_configs_in_which_numbers_decide_are_refused(config, message):
    with pytest.raises(CheckpointError, match=message):
        stacked_config(config, [{"base": (0, 1)}])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 2}, {"num_hidden_layers": 3}),
        ({"n_layer": 2, "decoder_sparse_step": 1}, {"n_layer": 3, "decoder_sparse_step": 1}),
        (
            {"model_type": "x", "text_config": {"num_hidden_layers": 2, "layer_types": ["a", "b"]}},
            {
                "model_type": "x",
                "text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "b"]},
            },
        ),
        (
            {"num_hidden_layers": 2, "max_window_layers": 28, "use_sliding_window": False},
            {"num_hidden_layers": 3, "max_window_layers": 28, "use_sliding_window": False},
        ),
    ],
)
def test_the_config_has_the_layers_of_the_output(config, expected):
    assert stacked_config(config, [{"base": (0, 2)}, {"base": (1, 2)}]) == expected
