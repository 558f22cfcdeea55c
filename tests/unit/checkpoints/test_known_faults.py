"""Faults met in use: one matrix under several names, prefixes, configs that mean something else."""

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    BartModel,
    BertConfig,
    BertForSequenceClassification,
)

from mergegrid.checkpoints.architectures import EMBEDDING, T5, UNTIED, is_task_head
from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.compatibility import DEFAULT_THETA, USES_DEFAULT_THETA, check_configs
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.tensor_names import canonical, with_names_of_base
from mergegrid.checkpoints.torch_tensors import load_into
from mergegrid.errors import CheckpointError
from mergegrid.study.encoders.importing import import_base, import_expert, load_classifier

MATRIX = np.arange(6.0).reshape(3, 2)
#: Model types whose body has a prefix that files may lack.
PREFIXED = sorted(kind for kind, path in EMBEDDING.items() if "." in path and kind not in T5)
WRAPPERS = ["", "module.", "_orig_mod.", "base_model.model."]


@st.composite
def files(draw, kind):
    """Tensors of a model of some type as a file may hold them: copies, names, a wrapper."""
    path = EMBEDDING[kind]
    body = f"{path.partition('.')[0]}." if "." in path else ""
    copies = [f"{path}.weight", "lm_head.weight"]
    if path.endswith("shared"):
        copies += [f"{path[:-6]}{part}.embed_tokens.weight" for part in ("encoder", "decoder")]
    held = draw(st.lists(st.sampled_from(copies), unique=True, min_size=1))
    layers = [f"{body}encoder.layers.{index}.norm.weight" for index in range(2)]
    tensors = dict.fromkeys(held, MATRIX) | dict.fromkeys(layers, MATRIX[0])
    # Without the embeddings of its class nothing tells that a prefix is lacking.
    if f"{path}.weight" in held and draw(st.booleans()):
        tensors = {name.removeprefix(body): each for name, each in tensors.items()}
    wrapper = draw(st.sampled_from(WRAPPERS))
    return {wrapper + name: each for name, each in tensors.items()}


@given(st.sampled_from(sorted(set(EMBEDDING) - UNTIED)).flatmap(
    lambda kind: st.tuples(st.just(kind), files(kind))
), st.booleans())  # fmt: skip
def test_a_tied_model_has_one_set_of_names_whatever_its_file_holds(made, says):
    kind, tensors = made
    config = {"model_type": kind, "architectures": ["ForConditionalGeneration"]}
    config |= {"tie_word_embeddings": True} if says else {}
    found = canonical(InMemory(tensors), config, "base")
    path = EMBEDDING[kind]
    body = f"{path.partition('.')[0]}." if "." in path else ""
    layers = [f"{body}encoder.layers.{index}.norm.weight" for index in range(2)]
    assert set(found) == {f"{path}.weight", *layers}
    assert np.array_equal(found[f"{path}.weight"], MATRIX)
    assert {found.stored_name(name) for name in found} <= set(tensors)


@given(st.sampled_from(sorted(UNTIED)), st.sampled_from([None, False]))
def test_what_an_architecture_does_not_tie_stays_two_matrices(kind, says):
    names = [f"{EMBEDDING[kind]}.weight", "lm_head.weight"]
    config = {"model_type": kind} | ({} if says is None else {"tie_word_embeddings": says})
    assert set(canonical(InMemory(dict.fromkeys(names, MATRIX)), config, "base")) == set(names)


@pytest.mark.parametrize(
    ("kind", "head", "embedding"),
    [
        ("whisper", "proj_out", "model.decoder.embed_tokens"),
        ("moonshine", "proj_out", "model.decoder.embed_tokens"),
        ("git", "output", "git.embeddings.word_embeddings"),
        ("trocr", "output_projection", "model.decoder.embed_tokens"),
        ("vilt", "mlm_score.decoder", "vilt.embeddings.text_embeddings.word_embeddings"),
        ("bridgetower", "mlm_score.decoder", "bridgetower.text_model.embeddings.word_embeddings"),
    ],
)
def test_heads_of_speech_and_images_are_tied(kind, head, embedding):
    names = [f"{head}.weight", f"{embedding}.weight"]
    config = {"model_type": kind, "tie_word_embeddings": True}
    for held in (names, names[1:]):
        found = canonical(InMemory(dict.fromkeys(held, MATRIX)), config, "base")
        assert set(found) == {names[1]}


ROWS = len(MATRIX)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (
            {"model_type": "encoder-decoder", "decoder": {"vocab_size": ROWS}},
            [
                "encoder.embeddings.word_embeddings",
                "decoder.bert.embeddings.word_embeddings",
                "decoder.cls.predictions.decoder",
            ],
        ),
        (
            {
                "model_type": "encoder-decoder",
                "tie_word_embeddings": False,
                "decoder": {"vocab_size": ROWS, "tie_word_embeddings": True},
            },
            ["decoder.bert.embeddings.word_embeddings", "decoder.cls.predictions.decoder"],
        ),
        (
            {"model_type": "prophetnet", "vocab_size": ROWS},
            ["prophetnet.word_embeddings", "prophetnet.decoder.word_embeddings"],
        ),
        (
            {"model_type": "luke", "entity_vocab_size": ROWS, "tie_word_embeddings": True},
            ["luke.entity_embeddings.entity_embeddings", "entity_predictions.decoder"],
        ),
        ({"model_type": "new", "vocab_size": ROWS}, ["model.tokens", "model.answers"]),
    ],
)
def test_equal_matrices_with_a_row_for_every_token_are_refused_where_nothing_unties_them(
    config, names
):
    tensors = {f"{name}.weight": MATRIX for name in names}
    with pytest.raises(CheckpointError, match=r"^base: .* and .* are equal"):
        canonical(InMemory(tensors), config, "base")
    # Matrices that differ are two, as are those of which the config says so.
    differing = {name: MATRIX + at for at, name in enumerate(tensors)}
    if not (config["model_type"] == "encoder-decoder" and "tie_word_embeddings" in config):
        assert set(canonical(InMemory(differing), config, "base")) == set(tensors)
    config = {"model_type": config["model_type"], "tie_word_embeddings": False}
    assert set(canonical(InMemory(tensors), config, "base")) == set(tensors)


PART = st.text("abcdh_", min_size=1, max_size=3)
NAMES = st.lists(
    st.lists(PART, min_size=2, max_size=4).map(".".join), min_size=1, max_size=12, unique=True
)


@given(NAMES, st.lists(PART, min_size=1, max_size=2), st.booleans(), st.data())
def test_one_prefix_of_all_names_is_found_and_taken_off_or_put_on(names, parts, longer, data):
    prefix = ".".join(parts) + "."
    prefixed = [prefix + name for name in names]
    # Else names could be read in two ways.
    assume(not set(prefixed) & set(names))
    base, expert = (names, prefixed) if longer else (prefixed, names)
    tensors = {name: np.full(2, index) for index, name in enumerate(expert)}
    found = with_names_of_base(InMemory(tensors), base, {}, "expert math")
    if set(found) != set(base):
        # Another prefix explains as many names: x.x.a and x.a, with x.x.x.a.
        assert any(one != two and one.endswith("." + two) for one in names for two in names)
        return
    for index, name in enumerate(base):
        assert found[name][0] == index


@pytest.mark.parametrize("older", ["base", "expert", "both", "none"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_norms_of_the_first_files_of_bert_are_those_of_today(older, prefix):
    body = ["bert.embeddings.LayerNorm", "bert.encoder.layer.0.output.LayerNorm"]

    def tensors(who, prefix=""):
        leaves = ("gamma", "beta") if older in (who, "both") else ("weight", "bias")
        names = [f"{prefix}{module}.{leaf}" for module in body for leaf in leaves]
        return {name: np.full(2, at) for at, name in enumerate(names)}

    base = tensors("base")
    found = with_names_of_base(InMemory(tensors("expert", prefix)), base, {}, "expert math")
    assert set(found) == set(base)
    assert all(np.array_equal(found[name], base[name]) for name in base)


@pytest.mark.parametrize("kept", [True, False])
def test_a_head_is_left_out_and_the_output_of_a_decoder_is_not(kept):
    config = {"architectures": ["LlamaForCausalLM" if kept else "LlamaModel"]}
    assert is_task_head("lm_head.weight", config) is not kept
    for name in ("score.weight", "classifier.out_proj.bias", "bert.pooler.dense.weight"):
        assert is_task_head(name, config)
    for name in ("model.norm.weight", "h.0.attn.bias", "layers.0.classifier_norm.weight",
                 "encoder.head_norm.weight", "decoder.layers.0.fc1.weight"):  # fmt: skip
        assert not is_task_head(name, config)


CONFIG = {"model_type": "mistral", "num_attention_heads": 4, "hidden_act": "silu"}
OTHER_MEANING = [
    ({}, {"num_attention_heads": 8}),
    ({"num_key_value_heads": 4}, {"num_key_value_heads": 2}),
    ({"head_dim": 8}, {"head_dim": 16}),
    ({}, {"hidden_act": "gelu"}),
    ({"activation_function": "gelu_new"}, {"activation_function": "relu"}),
    ({}, {"rope_theta": 1e6}),
    ({"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    ({"rotary_emb_base": 1e4}, {"rotary_emb_base": 1e5}),
    ({"rope_theta": 1e4}, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    ({"rotary_pct": 0.25}, {"rotary_pct": 1.0}),
    ({"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 1.0}),
    ({}, {"position_embedding_type": "relative_key"}),
    ({}, {"scale_attn_weights": False}),
    ({}, {"scale_attn_by_inverse_layer_idx": True}),
    ({}, {"alibi": True}),
    ({"do_layer_norm_before": True}, {"do_layer_norm_before": False}),
    ({"use_parallel_residual": True}, {"use_parallel_residual": False}),
    ({"attn_logit_softcapping": 50.0}, {"attn_logit_softcapping": 30.0}),
    ({"query_pre_attn_scalar": 256}, {"query_pre_attn_scalar": 224}),
    ({"logits_scaling": 1.0}, {"logits_scaling": 8.0}),
    ({}, {"scale_embedding": True}),
    ({"layer_types": ["full_attention"]}, {"layer_types": ["sliding_attention"]}),
    ({"relative_attention_num_buckets": 32}, {"relative_attention_num_buckets": 64}),
    ({"n_heads": 12}, {"n_heads": 6}),
    ({"activation": "gelu"}, {"activation": "relu"}),
    ({"sinusoidal_pos_embds": False}, {"sinusoidal_pos_embds": True}),
    ({}, {"is_decoder": True}),
    ({"is_decoder": True}, {"is_decoder": False}),
    ({}, {"clip_qkv": 8.0}),
    ({"clip_qkv": None}, {"clip_qkv": 8}),
    ({"clip_qkv": 6}, {"clip_qkv": 8}),
    ({"attn_config": {"alibi": True}}, {"attn_config": {"alibi": False}}),
    ({"attn_config": {"clip_qkv": None}}, {"attn_config": {"clip_qkv": 6}}),
    ({"attn_config": {"kv_n_heads": 8}}, {"attn_config": {"kv_n_heads": 4}}),
    ({"attn_config": {"softmax_scale": 0.1}}, {"attn_config": {"softmax_scale": 0.2}}),
    ({"routed_scaling_factor": 1.0}, {"routed_scaling_factor": 2.5}),
    ({"topk_group": 1}, {"topk_group": 4}),
    ({"n_group": 1}, {"n_group": 8}),
    ({"topk_method": "greedy"}, {"topk_method": "noaux_tc"}),
    ({"scoring_func": "softmax"}, {"scoring_func": "sigmoid"}),
    ({"local_attention": 128}, {"local_attention": 64}),
    ({"global_attn_every_n_layers": 3}, {"global_attn_every_n_layers": 2}),
    ({"sliding_window_pattern": 6}, {"sliding_window_pattern": 2}),
    ({"attention_chunk_size": 8192}, {"attention_chunk_size": 4096}),
    ({"original_max_position_embeddings": 4096}, {"original_max_position_embeddings": 8192}),
    ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}),
    ({"model_type": "t5"}, {"model_type": "t5", "tie_word_embeddings": False}),
    (
        {"model_type": "t5", "feed_forward_proj": "relu"},
        {"model_type": "t5", "feed_forward_proj": "gated-gelu"},
    ),
]
SAME_MEANING = [
    ({"hidden_act": "swish"}, {}),
    ({"activation": "swish"}, {"activation": "silu"}),
    ({"is_decoder": False, "clip_qkv": None}, {}),
    ({"attn_config": {"attn_impl": "triton", "clip_qkv": None}}, {"attn_config": {}}),
    ({"attn_config": {"attn_impl": "torch", "attn_pdrop": 0}}, {"attn_config": {"alibi": True}}),
    ({"activation_function": "gelu_new"}, {"activation_function": "gelu_pytorch_tanh"}),
    ({"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
    ({}, {"position_embedding_type": "absolute", "scale_attn_weights": True}),
    (
        {"model_type": "t5", "tie_word_embeddings": False},
        {"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": False},
    ),
    (
        {"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": False},
        {"model_type": "t5", "tie_word_embeddings": False},
    ),
    ({}, {"bos_token_id": 5, "use_cache": False, "attention_dropout": 0.1, "vocab_size": 9}),
]
NOTED = [
    ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}),
    ({"sliding_window": 4096}, {"sliding_window": 8192}),
    ({"max_position_embeddings": 4096}, {"max_position_embeddings": 8192}),
    ({"num_experts_per_tok": 2}, {"num_experts_per_tok": 4}),
]


def configs(folder, base, expert):
    for name, changes in (("base", base), ("expert", expert)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(CONFIG | changes))
    return check_configs(folder / "base", folder / "expert", "math")


@pytest.mark.parametrize(("base", "expert"), OTHER_MEANING, ids=str)
def test_keys_that_give_parameters_another_meaning_are_refused(base, expert, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"architecture of expert math differs from the base's"
    ):
        configs(tmp_path, base, expert)


@pytest.mark.parametrize(("base", "expert"), SAME_MEANING, ids=str)
def test_one_meaning_in_two_spellings_is_merged_without_a_word(base, expert, tmp_path):
    assert configs(tmp_path, base, expert) == []


@pytest.mark.parametrize(("base", "expert"), NOTED, ids=str)
def test_what_changes_no_parameter_is_noted(base, expert, tmp_path):
    (key,) = base
    (note,) = configs(tmp_path, base, expert)
    assert note.startswith(f"expert math: {key} (")
    assert note.endswith("the merge uses the base's value")


@pytest.mark.parametrize("kind", USES_DEFAULT_THETA)
def test_configs_without_theta_mean_what_transformers_takes_them_for(kind):
    from transformers import CONFIG_MAPPING

    assert CONFIG_MAPPING[kind].default_theta == DEFAULT_THETA


BART = {
    "vocab_size": 17,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "eos_token_id": 2,
}
BERT = {
    "vocab_size": 17,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def published(model, raw_encoder, folder):
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(raw_encoder).save_pretrained(folder)
    return folder


def test_encoders_with_shared_embeddings_are_kept_under_one_name(
    raw_encoder, request_for_praise, tmp_path
):
    torch.manual_seed(0)
    raw = published(BartModel(BartConfig(**BART)), raw_encoder, tmp_path / "raw")
    import_base(raw, tmp_path / "base", {})
    ready = BartForSequenceClassification(BartConfig(**BART, num_labels=2))
    published(ready, raw_encoder, tmp_path / "ready")
    import_expert(
        tmp_path / "ready", tmp_path / "base", request_for_praise, tmp_path / "expert", {}
    )
    base = open_checkpoint(tmp_path / "base")
    assert [name for name in base if "embed_tokens" in name or "shared" in name] == [
        "model.shared.weight"
    ]
    model = load_classifier(tmp_path / "expert")
    load_into(model, base)
    assert model.model.encoder.embed_tokens.weight is model.model.shared.weight
    saved = torch.from_numpy(base["model.shared.weight"])
    assert torch.equal(model.model.decoder.embed_tokens.weight, saved)


@pytest.mark.parametrize("lost", ["encoder.layer.0.output.dense.weight", "embeddings.LayerNorm"])
def test_an_encoder_that_is_not_whole_is_refused(lost, raw_encoder, tmp_path):
    model = BertForSequenceClassification(BertConfig(**BERT))
    raw = published(model, raw_encoder, tmp_path / "raw")
    tensors = load_file(raw / "model.safetensors")
    kept = {name: each for name, each in tensors.items() if lost not in name}
    save_file(kept, raw / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"raw lacks \d tensors of Bert.*{lost}"):
        import_base(raw, tmp_path / "base", {})


@pytest.mark.parametrize("changes", [{"num_attention_heads": 4}, {"hidden_act": "relu"}])
def test_a_ready_expert_of_another_architecture_is_refused(
    changes, raw_encoder, request_for_praise, tmp_path
):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**BERT))
    import_base(published(model, raw_encoder, tmp_path / "raw"), tmp_path / "base", {})
    other = BertForSequenceClassification(BertConfig(**(BERT | changes), num_labels=2))
    ready = published(other, raw_encoder, tmp_path / "ready")
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        import_expert(ready, tmp_path / "base", request_for_praise, tmp_path / "expert", {})
