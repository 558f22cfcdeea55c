"""Every kind of LoRA adapter merges to what PEFT's merge_and_unload gives in float32."""

import re
from pathlib import Path

import adapters
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergegrid import Dare, TaskArithmetic, merge, open_model
from mergegrid.checkpoints.family import open_family

DOCS = Path(__file__).parents[4] / "docs" / "adapters.md"
#: A unit in the last place of a weight below 0.25: another order of a sum can round it otherwise.
ULP = 2**-25


def stated():
    """The differences that the table of the docs states, by variant."""
    row = re.compile(
        r"^\| (.+?) \| \w+ \| .+ \| (0|[\d.]+e-\d+) \| (0|[\d.]+e-\d+) \|$", re.MULTILINE
    )
    rows = row.findall(DOCS.read_text())
    return {name: (float(exact), float(drawn)) for name, exact, drawn in rows}


def test_the_docs_list_every_variant():
    assert list(stated()) == list(adapters.VARIANTS)


@pytest.mark.parametrize("exact", [True, False], ids=["few bits", "random"])
@pytest.mark.parametrize("name", adapters.VARIANTS)
def test_weights_are_those_that_peft_merges(name, exact, tmp_path):
    # Sums of numbers of few bits are exact in any order. DoRA divides, so PEFT rounds as well.
    bound = 0.0 if exact and "DoRA" not in name else ULP
    measured = adapters.difference(adapters.VARIANTS[name], tmp_path, exact)
    assert measured <= bound
    assert max(stated()[name]) <= ULP
    assert stated()[name][0] == 0 or "DoRA" in name


def adapter_of(tmp_path, **settings):
    variant = adapters.Variant({"target_modules": ["q_proj", "up_proj"]} | settings)
    adapters.save_all(variant, tmp_path)
    return tmp_path / "adapter", tmp_path / "base"


def tensors_file(folder):
    return folder / "adapter_model.safetensors"


def rename(folder, old, new):
    tensors = load_file(tensors_file(folder))
    renamed = {re.sub(old, new, key): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tensors_file(folder))


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\.lora_(A|B)\.", r".lora_\1.default."),
        (r"^base_model\.model\.model\.", "base_model.model."),
        (r"^base_model\.model\.model\.", "base_model.model.model.language_model."),
        (r"^base_model\.model\.", ""),
    ],
    ids=[
        "with the adapter's name",
        "of the body",
        "within a larger model",
        "without PEFT's prefix",
    ],
)
def test_other_spellings_of_keys_mean_the_same(old, new, tmp_path):
    adapter, base = adapter_of(tmp_path)
    expected = merge(base, {"math": adapter})
    rename(adapter, old, new)
    assert same(merge(base, {"math": adapter}), expected)


def test_pickled_tensors_mean_the_same(tmp_path):
    adapter, base = adapter_of(tmp_path)
    expected = merge(base, {"math": adapter})
    torch.save(load_file(tensors_file(adapter)), adapter / "adapter_model.bin")
    tensors_file(adapter).unlink()
    assert same(merge(base, {"math": adapter}), expected)


def test_a_tied_matrix_changes_once_where_both_sides_were_trained(tmp_path):
    settings = {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    variant = adapters.Variant(settings, adapters.tied_llama)
    adapters.save_all(variant, tmp_path)
    name = "model.embed_tokens.weight"
    file = load_file(tensors_file(tmp_path / "adapter"))
    (a,) = (tensor for key, tensor in file.items() if key.endswith("lora_embedding_A"))
    (b,) = (tensor for key, tensor in file.items() if key.endswith("lora_embedding_B"))
    once = open_model(tmp_path / "base")[name] + 2 * (b @ a).T.numpy()
    ours = merge(tmp_path / "base", {"math": tmp_path / "adapter"})
    np.testing.assert_array_equal(ours[name], once)


def test_the_delta_does_not_hold_the_rounding_of_the_base(tmp_path):
    """Deltas of 1e-6 in a base of bfloat16, whose own steps are a thousand times as large."""
    adapter, base = adapter_of(tmp_path, r=1)
    adapters.llama().bfloat16().save_pretrained(base)
    tensors = {key: 1e-3 * tensor for key, tensor in load_file(tensors_file(adapter)).items()}
    save_file(tensors, tensors_file(adapter))
    name = "model.layers.0.self_attn.q_proj.weight"
    key = f"base_model.model.{name.removesuffix('.weight')}"
    change = 8 * tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"]
    # A model whose weights are the deltas alone: they are added to a base of zeros.
    product = open_family(base, {"math": adapter}).aligned.experts["math"].change(name).product
    delta = np.empty(change.numel(), np.float32)
    product.elements(0, delta)
    np.testing.assert_array_equal(delta, change.numpy().reshape(-1))
    assert np.abs(delta).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_half_precision_are_widened(dtype, tmp_path):
    adapter, base = adapter_of(tmp_path)
    halves = {key: tensor.to(dtype) for key, tensor in load_file(tensors_file(adapter)).items()}
    save_file({key: tensor.float() for key, tensor in halves.items()}, tensors_file(adapter))
    expected = merge(base, {"math": adapter})
    save_file(halves, tensors_file(adapter))
    assert same(merge(base, {"math": adapter}), expected)


def test_a_head_that_only_the_adapter_has_is_left_out_with_a_note(tmp_path):
    adapter, base = adapter_of(tmp_path)
    expected = merge(base, {"math": adapter})
    head = {"base_model.model.score.weight": torch.ones(2, adapters.WIDTH)}
    save_file(load_file(tensors_file(adapter)) | head, tensors_file(adapter))
    assert any("score" in note for note in open_family(base, {"math": adapter}).notes)
    assert same(merge(base, {"math": adapter}), expected)


def test_an_adapter_with_added_tokens_merges_the_rows_of_the_base_or_all(tmp_path):
    """The vocabulary grew by two tokens: the file holds the embeddings as they were trained."""
    adapter, base = adapter_of(tmp_path, target_modules=["q_proj", "embed_tokens"])
    file, base_rows = (
        load_file(tensors_file(adapter)),
        open_model(base)["model.embed_tokens.weight"],
    )
    prefix = "base_model.model.model.embed_tokens"
    added = torch.full((2, adapters.WIDTH), 0.25)
    grown = torch.cat([torch.from_numpy(base_rows), added])
    a = torch.cat([file[f"{prefix}.lora_embedding_A"], torch.ones(4, 2)], dim=1)
    b = file[f"{prefix}.lora_embedding_B"]
    head = torch.cat([torch.from_numpy(open_model(base)["lm_head.weight"]), added])
    file |= {f"{prefix}.base_layer.weight": grown, f"{prefix}.lora_embedding_A": a}
    save_file(file | {"base_model.model.lm_head.weight": head}, tensors_file(adapter))
    expected = (grown + 2 * (b @ a).T).numpy()
    name = "model.embed_tokens.weight"
    cut = merge(base, {"math": adapter}, Dare(rate=0.0), TaskArithmetic(coefficient=1.0))
    np.testing.assert_allclose(cut[name], expected[:-2], rtol=0, atol=ULP)
    from mergegrid import Output

    padded = merge(base, {"math": adapter}, output=Output(vocabulary="pad"))
    np.testing.assert_allclose(padded[name], expected, rtol=0, atol=ULP)
