"""Faults met in use: matrices with several names, names with a prefix, parameters of one model."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MarianConfig,
    Qwen2Config,
    T5Config,
)

from mergegrid.api import job_of, run_job
from mergegrid.checkpoints.torch_tensors import load_into
from mergegrid.errors import CheckpointError, DamagedError
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.transformers_backend import empty_model, replace_weights

LLAMA = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
T5 = {"vocab_size": 24, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
BART = {
    "vocab_size": 24,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
GPT2 = {"vocab_size": 24, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
CONFIGS = {
    "gpt2": GPT2Config(**GPT2),
    "untied gpt2": GPT2Config(**GPT2, tie_word_embeddings=False),
    "llama": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "untied llama": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "gemma": Gemma2Config(**LLAMA, head_dim=8),
    "t5": T5Config(**T5),
    "t5 1.1": T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "bart": BartConfig(**BART),
    "marian": MarianConfig(**BART, pad_token_id=0, decoder_start_token_id=0, eos_token_id=1),
}
EMBEDDING = {
    "gpt2": "transformer.wte.weight",
    "t5": "shared.weight",
    "t5 1.1": "shared.weight",
    "bart": "model.shared.weight",
    "marian": "model.shared.weight",
}
PREFIX = {"gpt2": "transformer.", "untied gpt2": "transformer.", "t5": "", "t5 1.1": ""}
COPIES = {
    "t5": ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "t5 1.1": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "bart": (
        "lm_head.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
    ),
    "untied gpt2": (),
    "untied llama": (),
}
COPIES["marian"] = COPIES["bart"]
RANDOM = [
    {"kind": "dare", "rate": 0.9, "seed": 1},
    {"kind": "drop_only", "rate": 0.5},
    {"kind": "masked_finetuned", "rate": 0.5},
    {"kind": "della", "rate": 0.6},
]


def auto(config):
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def parameters(kind, seed, changes=None):
    """Parameters of a model and of one fine-tuned from it, each matrix once."""
    torch.manual_seed(0)
    model = auto(CONFIGS[kind]).from_config(CONFIGS[kind])
    with torch.no_grad():
        if kind == "t5 1.1":
            # transformers 5 ties what is equal, as all is that is new.
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter += seed * 0.01 * torch.randn_like(parameter)
    own = dict(model.named_parameters())
    buffers = {n: b for n, b in model.state_dict().items() if n == "final_logits_bias"}
    return {name: each.detach().clone() for name, each in (own | buffers).items()}


def write(folder, kind, tensors, copies=(), bare=False, wrapper="", only=None, drop=(), **changes):
    """A folder whose file has these copies of the embedding, or names without their prefix.

    `only`: the one name of the embedding in the file; `drop`: keys that the config lacks.
    """
    folder.mkdir(parents=True)
    embedding = EMBEDDING.get(kind, "model.embed_tokens.weight")
    tensors = dict(tensors)
    tensors |= {copy: tensors[embedding].clone() for copy in copies}
    if only:
        tensors[only] = tensors.pop(embedding)
    prefix = PREFIX.get(kind, "model.")
    if bare:
        tensors = {name.removeprefix(prefix): each for name, each in tensors.items()}
    tensors = {wrapper + name: each for name, each in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    CONFIGS[kind].save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [type(auto(CONFIGS[kind]).from_config(CONFIGS[kind])).__name__]
    if kind == "t5 1.1":
        config["tie_word_embeddings"] = False
        config.pop("scale_decoder_outputs", None)
    config |= changes
    config = {key: value for key, value in config.items() if key not in drop}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def family(place, kind, base=None, expert=None):
    """A base and two experts, as files of some kind; gives their folders."""
    write(place / "base", kind, parameters(kind, 0), **(base or {}))
    for seed, name in enumerate(("math", "code"), start=1):
        write(place / name, kind, parameters(kind, seed), **(expert or {}))
    return place


def merge(place, sparsifier=RANDOM[0], method=None, experts=("math", "code"), **output):
    """Merge such a family into `place/out`."""
    content = {
        "base": "base",
        "experts": {name: name for name in experts},
        "sparsifier": sparsifier,
        "method": method or {"kind": "task_arithmetic", "coefficient": 0.5},
        "output": output,
    }
    (place / "merge.yaml").write_text(json.dumps(content))
    run_job(job_of(place / "merge.yaml", place / "out"), threads=1)
    return place / "out"


def loaded(folder):
    """A folder as transformers loads it, whole."""
    found, report = auto(AutoConfig.from_pretrained(folder)).from_pretrained(
        folder, output_loading_info=True
    )
    constants = {
        "final_logits_bias",
        *(n for n in report["missing_keys"] if "embed_positions" in n),
    }
    assert not set(report["missing_keys"]) - constants, report
    assert not report["unexpected_keys"], report
    return found


def same(one, other):
    """Whether two models have the same tensors under all their names, to the bit."""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def folder_of(place, sparsifier=RANDOM[0], **files):
    family(place, **files)
    return loaded(merge(place, sparsifier))


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The merge of a family as transformers saves it, and its folder, by kind."""

    @functools.cache
    def merged(kind):
        place = tmp_path_factory.mktemp("plain")
        return folder_of(place, kind=kind), place / "out"

    return merged


#: How a file may hold a family that transformers takes for the same.
FILES = {
    "copies": lambda kind: {"copies": COPIES.get(kind, ("lm_head.weight",))},
    "names without prefix": lambda kind: {"bare": True},
    "copies without prefix": lambda kind: {
        "bare": True,
        "copies": COPIES.get(kind, ("lm_head.weight",)),
    },
    "names of DataParallel": lambda kind: {"wrapper": "module."},
    "one copy alone": lambda kind: {"only": (*COPIES.get(kind, ("lm_head.weight",)), None)[0]},
    "config silent": lambda kind: (
        {"drop": ("tie_word_embeddings",), "copies": COPIES.get(kind, ("lm_head.weight",))}
        if kind in ("gpt2", "gemma", "bart", "t5")
        else {}
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("who", ["base", "expert", "both"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merge_does_not_depend_on_how_files_name_a_matrix(kind, who, files, plain, tmp_path):
    changed = FILES[files](kind)
    asked = {each: changed for each in ("base", "expert") if who in (each, "both")}
    if kind == "t5 1.1" and files == "one copy alone":
        changed["only"] = "decoder.embed_tokens.weight"
    model, folder = plain(kind)
    assert same(folder_of(tmp_path, kind=kind, **asked), model)
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert held.keys() == load_file(folder / "model.safetensors").keys()


@pytest.mark.parametrize("sparsifier", RANDOM, ids=lambda each: each["kind"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_shared_matrices_stay_one_in_every_sink(kind, sparsifier, tmp_path):
    copies = {"copies": COPIES.get(kind, ("lm_head.weight",))}
    bare = {"bare": kind in ("gpt2", "untied gpt2")}
    family(tmp_path, kind, base=copies | bare, expert=copies)
    folder = merge(tmp_path, sparsifier)
    from_folder = loaded(folder)
    ours = dict(from_folder.named_parameters(remove_duplicate=False))
    embedding = ours[EMBEDDING.get(kind.removeprefix("untied "), "model.embed_tokens.weight")]
    for name in copies["copies"]:
        assert ours[name].data_ptr() == embedding.data_ptr()
    models = Models(
        base=tmp_path / "base", experts={name: tmp_path / name for name in ("math", "code")}
    )
    recipe = Recipe(
        family="base",
        experts=("code", "math"),
        sparsifier=sparsifier,
        method={"kind": "task_arithmetic", "coefficient": 0.5},
    )
    weights = Merger(models).weights(recipe)
    stored = load_file(folder / "model.safetensors")
    assert weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], stored[name]) for name in stored)
    fresh = auto(CONFIGS[kind]).from_config(CONFIGS[kind])
    if kind == "t5 1.1":
        fresh.lm_head.weight = torch.nn.Parameter(torch.zeros_like(fresh.lm_head.weight))
    load_into(fresh, weights)
    assert same(fresh, from_folder)
    if not CONFIGS[kind].is_encoder_decoder:
        empty = empty_model(folder, "float32")
        replace_weights(empty, weights)
        assert same(empty, from_folder)


@pytest.mark.parametrize("who", ["base", "math"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gemma", "bart"])
def test_a_second_value_of_a_tied_matrix_is_refused_with_both_names(kind, who, tmp_path):
    family(tmp_path, kind)
    embedding = EMBEDDING.get(kind, "model.embed_tokens.weight")
    path = tmp_path / who / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors[embedding].clone()
    tensors["lm_head.weight"][-1, -1] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{who}.*lm_head\.weight to {embedding}.* two diff"):
        merge(tmp_path)


def test_an_expert_that_was_trained_untied_is_refused_by_a_tied_base(tmp_path):
    family(tmp_path, "gpt2")
    path = tmp_path / "math" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "math" / "config.json").read_text())
    (tmp_path / "math" / "config.json").write_text(
        json.dumps(config | {"tie_word_embeddings": False})
    )
    silent = json.loads((tmp_path / "base" / "config.json").read_text())
    del silent["tie_word_embeddings"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(silent))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight to transformer\.wte\.weight"):
        merge(tmp_path)


@pytest.mark.parametrize("equal", [True, False])
def test_an_unknown_architecture_says_nothing_of_equal_matrices(equal, tmp_path):
    changes = {"model_type": "mine", "drop": ("tie_word_embeddings",)}
    tensors = parameters("untied llama", 0)
    if equal:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    for name in ("base", "math", "code"):
        write(tmp_path / name, "untied llama", tensors, **changes)
    if equal:
        with pytest.raises(CheckpointError, match=r"mine is unknown .* no tie_word_embeddings"):
            merge(tmp_path)
    else:
        assert "lm_head.weight" in load_file(merge(tmp_path) / "model.safetensors")


#: Parameters inside the layers of a Llama, and what its config says of them.
INSIDE = {
    "attention biases": (
        {f"model.layers.0.self_attn.{each}_proj.bias": 16 for each in "qo"},
        {"attention_bias": True},
    ),
    "biases of the MLP": ({"model.layers.0.mlp.up_proj.bias": 24}, {"mlp_bias": True}),
    "norms of queries": ({"model.layers.0.self_attn.q_norm.weight": 8}, {"use_qk_norm": True}),
    "bias of a norm": ({"model.layers.0.input_layernorm.bias": 16}, {"norm_bias": True}),
    "bias of the last norm": ({"model.norm.bias": 16}, {"norm_bias": True}),
    "another layer": ({"model.layers.1.mlp.up_proj.weight": 24}, {"num_hidden_layers": 2}),
    "experts": (
        {"model.layers.0.mlp.experts.0.up_proj.weight": 24, "model.layers.0.mlp.gate.weight": 2},
        {"num_local_experts": 2},
    ),
    "adapter": ({"model.layers.0.mlp.up_proj.lora_A.weight": 24}, {"adapter_rank": 2}),
    "positions": ({"model.embed_positions.weight": 32}, {"position_embedding_type": "learned"}),
    "a tower": ({"vision_tower.layers.0.weight": 4}, {"num_vision_layers": 1}),
}


@pytest.mark.parametrize("who", ["base", "math"])
@pytest.mark.parametrize("what", INSIDE)
def test_parameters_of_one_model_are_named_with_the_keys_that_explain_them(what, who, tmp_path):
    family(tmp_path, "untied llama")
    sizes, keys = INSIDE[what]
    path = tmp_path / who / "model.safetensors"
    save_file(load_file(path) | {n: torch.ones(s) for n, s in sizes.items()}, path)
    config = json.loads((tmp_path / who / "config.json").read_text())
    (tmp_path / who / "config.json").write_text(json.dumps(config | keys))
    (first, *_), (key,) = sorted(sizes), keys
    count = f"lacks {len(sizes)} of its base's" if who == "base" else f"has {len(sizes)} parameters"
    with pytest.raises(CheckpointError, match=rf"expert math {count}.*{first}.*{key} \("):
        merge(tmp_path, {"kind": "none"}, {"kind": "average"}, experts=("math",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["score.weight", "classifier.dense.weight", "v_head.summary.weight", "pooler.weight",
             "model.pooler.dense.weight", "qa_outputs.bias", "classification_head.out_proj.bias"]
)  # fmt: skip
def test_a_task_head_of_one_expert_is_left_out_and_said(name, tmp_path):
    family(tmp_path, "untied llama")
    path = tmp_path / "math" / "model.safetensors"
    save_file(load_file(path) | {name: torch.ones(3, 16)}, path)
    folder = merge(tmp_path)
    assert name not in load_file(folder / "model.safetensors")
    (note,) = json.loads((folder / "manifest.json").read_text())["made_from"]["notes"]
    assert note == f"{name} of expert math is a task head and not merged"
    assert note in (folder / "README.md").read_text()


def test_the_output_matrix_of_a_decoder_is_no_task_head(tmp_path):
    family(tmp_path, "untied llama")
    path = tmp_path / "math" / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"lacks 1 of its base's tensors.*lm_head\.weight"):
        merge(tmp_path)


def bert(seed, model=BertForMaskedLM, **config):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    found = model(BertConfig(vocab_size=24, num_hidden_layers=1, **sizes, **config))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += seed * 0.01 * torch.randn_like(parameter)
    return found


@pytest.mark.parametrize("lost", [(), ("cls.predictions.bias",)], ids=["both", "one"])
def test_the_head_of_a_masked_language_model_has_the_embeddings_and_one_bias(lost, tmp_path):
    for place, copies in ((tmp_path / "plain", False), (tmp_path / "other", True)):
        for seed, name in enumerate(("base", "math", "code")):
            model = bert(seed)
            model.save_pretrained(place / name)
            if copies:
                state = {key: each.clone() for key, each in model.state_dict().items()}
                assert "cls.predictions.decoder.bias" in state
                state = {key: each for key, each in state.items() if key not in lost}
                save_file(state, place / name / "model.safetensors", metadata={"format": "pt"})
    plain, other = (
        BertForMaskedLM.from_pretrained(merge(tmp_path / name)) for name in ("plain", "other")
    )
    assert same(other, plain)
    weight = other.cls.predictions.decoder.weight
    assert weight.data_ptr() == other.bert.embeddings.word_embeddings.weight.data_ptr()


@pytest.mark.parametrize("base", [BertModel, BertForMaskedLM])
def test_classifiers_are_merged_with_a_base_that_has_another_head_or_other_names(base, tmp_path):
    bert(0, base).save_pretrained(tmp_path / "base")
    for seed, name in enumerate(("math", "code"), start=1):
        bert(seed, BertForSequenceClassification).save_pretrained(tmp_path / name)
    folder = merge(tmp_path)
    held = load_file(folder / "model.safetensors")
    assert not [name for name in held if "cls." in name or "classifier" in name]
    merged = BertModel.from_pretrained(folder)
    found = merged.embeddings.word_embeddings.weight
    assert torch.isfinite(found).all()
    assert not torch.equal(found, bert(0, base).base_model.embeddings.word_embeddings.weight)
    notes = json.loads((folder / "manifest.json").read_text())["made_from"]["notes"]
    assert sum("classifier.bias" in note for note in notes) == 2


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bart", "t5"])
def test_names_that_no_prefix_explains_are_refused_with_the_prefix(kind, tmp_path):
    family(tmp_path, kind)
    path = tmp_path / "math" / "model.safetensors"
    tensors = load_file(path)
    odd = sorted(tensors)[0]
    tensors = {name if name == odd else f"wrapped.{name}": each for name, each in tensors.items()}
    tensors["wrapped.other"] = tensors.pop(f"wrapped.{sorted(load_file(path))[1]}")
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"expert math: .* prefix 'wrapped\.'.* not the other 1"
    ):
        merge(tmp_path)


@pytest.mark.parametrize("prefix", ["module.", "model.", "base_model.model.", "policy.lm."])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bart", "t5"])
def test_any_one_prefix_of_an_expert_is_taken_off(kind, prefix, plain, tmp_path):
    assert same(folder_of(tmp_path, kind=kind, expert={"wrapper": prefix}), plain(kind)[0])


def test_a_published_model_is_verified_under_the_names_of_its_file(tmp_path):
    """Names in a manifest are those in the file, whatever the merge calls the tensors."""
    family(tmp_path / "raw", "gpt2", base={"bare": True})
    import_decoder(tmp_path / "raw" / "base", tmp_path / "base", {"source": "test"})
    for name in ("math", "code"):
        (tmp_path / name).symlink_to(tmp_path / "raw" / name)
    merge(tmp_path)
    path = tmp_path / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"h\.0|ln_f|wte|wpe"):
        merge(tmp_path)
