"""Faults met in use: bases whose names lack a prefix, and errors before training starts."""

import json

import pandas as pd
import pytest
import torch
from merge_jobs import merge_recipe
from safetensors.torch import load_file, save_file
from small_models import VOCABULARY, tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPT2Model, Trainer

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.errors import CheckpointError
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.finetuning.decoder import finetune_decoder
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.transformers_backend import empty_model, replace_weights
from mergegrid.study.schema.decoder_jobs import DecoderFinetuneRequest

WTE, HEAD = "transformer.wte.weight", "lm_head.weight"
RECIPE = Recipe(
    family="gpt2",
    experts=("trained", "published"),
    sparsifier={"kind": "dare", "rate": 0.9, "seed": 1},
    method={"kind": "average"},
)


@pytest.fixture(scope="module")
def examples():
    rows = [("train" if index < 12 else "validation", "the film", "one") for index in range(16)]
    return pd.DataFrame(rows, columns=["split", "instruction", "output"])


def request(**settings):
    settings = {"learning_rate": 3e-3, "epochs": 1, "batch_size": 4} | settings
    data = {"generated": {"generator": "instructions", "count": 2}}
    return DecoderFinetuneRequest.model_validate(
        {
            "data": data,
            "settings": settings,
            "prompt": "was {instruction} is",
            "chat": False,
            "seed": 0,
        }
    )


def gpt2(folder, change=lambda tensors: tensors, files="safetensors", seed=0, model=None):
    """A GPT-2 as published, with `h.0...`, or with other names that `change` gives."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    decoder = (model or GPT2LMHeadModel)(config)
    decoder.save_pretrained(folder)
    tensors = change(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    if files == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    del values["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(values))
    tokenizer().save_pretrained(folder)
    return folder


def bare(tensors):
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_masks(tensors):
    mask = torch.ones(32, 32).tril()[None, None]
    return bare(tensors) | {"h.0.attn.bias": mask, "h.0.attn.masked_bias": torch.tensor(-1e4)}


def with_copy(tensors):
    return bare(tensors) | {HEAD: tensors[WTE].clone()}


def only_copy(tensors):
    return {HEAD: tensors.pop(WTE), **tensors}


@pytest.mark.parametrize("lora", [None, {"rank": 2, "targets": ["c_attn"]}], ids=["whole", "lora"])
@pytest.mark.parametrize("files", ["safetensors", "bin"])
@pytest.mark.parametrize("change", [bare, with_masks, with_copy, only_copy])
def test_a_decoder_is_trained_from_a_base_with_any_names_and_merged(
    change, files, lora, examples, tmp_path
):
    base = tmp_path / "base"
    import_decoder(gpt2(tmp_path / "raw", change, files), base, {"source": "test"})
    finetune_decoder(base, request(lora=lora), examples, tmp_path / "trained")
    import_decoder(
        gpt2(tmp_path / "published raw", seed=1), tmp_path / "published", {"source": "test"}
    )
    started, trained = open_checkpoint(base), open_checkpoint(tmp_path / "trained")
    assert trained.infos == started.infos
    assert any((trained[name] != started[name]).any() for name in started)
    experts = {name: tmp_path / name for name in RECIPE.experts}
    merge_recipe(RECIPE, base, experts, Output(), True, tmp_path / "out", threads=1)
    folder = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert folder.lm_head.weight is folder.transformer.wte.weight
    one_engine = empty_model(tmp_path / "out", "float32")
    replace_weights(one_engine, Merger(Models(base=base, experts=experts)).weights(RECIPE))
    loaded, expected = one_engine.state_dict(), folder.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_base_of_the_bare_class_is_trained_and_merged(examples, tmp_path):
    base = tmp_path / "base"
    import_decoder(gpt2(tmp_path / "raw", model=GPT2Model), base, {"source": "test"})
    finetune_decoder(base, request(), examples, tmp_path / "trained")
    import_decoder(
        gpt2(tmp_path / "published raw", seed=1), tmp_path / "published", {"source": "test"}
    )
    experts = {name: tmp_path / name for name in RECIPE.experts}
    merge_recipe(RECIPE, base, experts, Output(), True, tmp_path / "out", threads=1)
    folder = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    one_engine = empty_model(tmp_path / "out", "float32")
    replace_weights(one_engine, Merger(Models(base=base, experts=experts)).weights(RECIPE))
    loaded, expected = one_engine.state_dict(), folder.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def without_a_norm(tensors):
    del tensors["transformer.h.0.ln_1.weight"]
    return tensors


def without_a_layer(tensors):
    return {name: tensor for name, tensor in tensors.items() if ".h.0." not in name}


def of_data_parallel(tensors):
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def with_two_values(tensors):
    return tensors | {HEAD: tensors[WTE] + 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_norm, r"lacks 1 tensors of GPT2LMHeadModel, first transformer\.h\.0\.ln_1"),
        (without_a_layer, r"lacks 12 tensors of GPT2LMHeadModel"),
        (of_data_parallel, r"lacks \d+ tensors of GPT2LMHeadModel"),
        (with_two_values, r"lm_head\.weight to transformer\.wte\.weight.* two different"),
    ],
)
def test_a_faulty_base_is_refused_before_the_first_step(
    change, message, examples, tmp_path, monkeypatch
):
    base = gpt2(tmp_path / "base", change)
    (base / "manifest.json").write_text(json.dumps({"files": {}, "made_from": {}}))
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(CheckpointError, match=message):
        finetune_decoder(base, request(), examples, tmp_path / "expert")


def test_an_import_refuses_two_values_of_a_tied_matrix(tmp_path):
    with pytest.raises(CheckpointError, match=r"lm_head\.weight to transformer\.wte\.weight"):
        import_decoder(gpt2(tmp_path / "raw", with_two_values), tmp_path / "base", {})
    assert not (tmp_path / "base").exists()
