"""Whether a model was fine-tuned from a base: the same parameters, and a config that agrees.

Equal shapes are not enough. `CodeLlama-13b-Python` has the shapes of `Llama-2-13b`, but other
rotary embeddings: the difference of the two is no delta that can be merged.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.architectures import T5, Config, is_constant, is_task_head, text_config
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.tensor_names import read_config
from mergegrid.errors import CheckpointError

_ATTENTION = (
    *("alibi", "alibi_bias_max", "attn_type", "clip_qkv", "kv_n_heads", "prefix_lm", "qk_ln"),
    *("rope", "rope_theta", "softmax_scale"),
)
"""What MPT and DBRX say in `attn_config`; how attention is computed (`attn_impl`) may differ."""
_MUST_AGREE = (
    "model_type",
    *("hidden_size", "n_embd", "d_model", "embedding_size"),
    *("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_decoder_layers", "num_hidden_groups"),
    *("num_attention_heads", "n_head", "n_heads", "num_heads"),
    *("encoder_attention_heads", "decoder_attention_heads", "num_attention_groups"),
    *("num_key_value_heads", "head_dim", "num_kv_heads", "d_kv", "multi_query"),
    *("intermediate_size", "n_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"),
    *("hidden_act", "hidden_activation", "activation_function", "activation"),
    *("feed_forward_proj", "dense_act_fn", "is_gated_act"),
    # Which tokens see which.
    *("is_decoder", "local_attention", "global_attn_every_n_layers", "sliding_window_pattern"),
    "attention_chunk_size",
    # Where positions enter.
    *("position_embedding_type", "alibi", "relative_attention", "pos_att_type"),
    *("sinusoidal_pos_embds", "original_max_position_embeddings"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
    *("max_relative_positions", "position_buckets", "share_att_key"),
    *("rotary_pct", "rotary_dim", "partial_rotary_factor"),
    *("rope_local_base_freq", "no_rope_layers"),
    # Factors on weights, scores and states.
    *("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling"),
    *("attention_multiplier", "residual_multiplier", "embedding_multiplier"),
    *("scale_embedding", "scale_emb", "scale_depth", "scale_decoder_outputs"),
    "clip_qkv",
    # Where norms stand, and how layers follow one another.
    *("do_layer_norm_before", "normalize_before", "norm_first", "norm_type"),
    *("apply_residual_connection_post_layernorm", "use_parallel_residual", "parallel_attn"),
    *("new_decoder_architecture", "layer_types", "attention_layers", "attention_types"),
    *("num_experts", "num_local_experts", "n_routed_experts", "norm_topk_prob"),
    *("routed_scaling_factor", "n_group", "topk_group", "topk_method", "scoring_func"),
    *(f"attn_config.{key}" for key in _ATTENTION),
)
_MAY_DIFFER = (
    # The first configs of Llama 2 said 1e-6 where 1e-5 was meant, and experts copied them.
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    # Without another scaling of the rotary embeddings this is no more than a limit on lengths.
    *("max_position_embeddings", "n_positions"),
    # How far back attention reaches, and how many experts a token has, can be set anew.
    *("sliding_window", "use_sliding_window", "num_experts_per_tok"),
)
_DEFAULTS = {
    "position_embedding_type": "absolute",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_embedding": False,
    "alibi": False,
    "is_decoder": False,
}
"""What configs mean that lack a key, where that is the same for all architectures."""
_SYNONYMS = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"}
DEFAULT_THETA = 10000.0
"""The `rope_theta` of configs that were written before it was a key."""
USES_DEFAULT_THETA = (
    *("falcon", "gemma", "gemma2", "gpt_neox", "granite", "llama", "mistral", "olmo", "olmo2"),
    *("phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "stablelm", "starcoder2"),
)
"""Model types whose configs mean it where they have no other."""
_EXPLAINED_BY = {
    r"\.bias$": "bias",
    r"norm": "norm",
    r"\.experts?\.|\.gate\.": "expert",
    r"\.\d+\.": "layer",
    r"lora_|adapter": "adapter",
    r"relative|distance|position": "position",
}
"""Parts of the keys that say why a model has tensors of some name."""
_NAMED = 3
"""Tensors that an error names."""


def check_homologous(base: Checkpoint, expert: Checkpoint, expert_name: str) -> None:
    """Check that an expert has every tensor of its base, in the same shape.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    missing = [name for name in base if name not in expert]
    if missing:
        raise CheckpointError(_lacks(missing, expert_name))
    for name in base:
        ours, theirs = base.infos[name].shape, expert.infos[name].shape
        if ours != theirs:
            raise CheckpointError(
                f"{name} is {ours} in the base and {theirs} in expert {expert_name}; "
                "only models of equal shapes can be merged: name the right base"
            )


def left_out(
    base: Checkpoint,
    expert: Checkpoint,
    expert_name: str,
    base_config: Config,
    expert_config: Config,
) -> tuple[list[str], list[str]]:
    """What of two models is in one of them alone and stays out of merges: heads and constants.

    Returns:
        Tensors of the base that the expert lacks, and a line for each model with such heads.

    Raises:
        CheckpointError: one of them has other parameters of its own; they are named, with the
            keys of `config.json` that explain them.
    """
    missing = [name for name in base if name not in expert]
    extra = [name for name in expert if name not in base]
    for names, message in ((missing, _lacks), (extra, _adds)):
        inner = [
            name
            for name in names
            if not (is_task_head(name, base_config) or is_constant(name, base_config))
        ]
        if inner:
            raise CheckpointError(
                message(inner, expert_name, _why(inner, base_config, expert_config))
            )
    notes = []
    for names, who in ((extra, f"expert {expert_name}"), (missing, "the base")):
        heads = [name for name in names if not is_constant(name, base_config)]
        if heads:
            notes.append(f"{_listed(heads)} of {who} stays out of the merge: it is a task head")
    return missing, notes


def _lacks(names: Sequence[str], expert: str, why: str = "") -> str:
    return (
        f"expert {expert} lacks {len(names)} tensors of its base, first {_listed(names)}{why}; "
        "it was not fine-tuned from this base: name the right one"
    )


def _adds(names: Sequence[str], expert: str, why: str = "") -> str:
    return (
        f"expert {expert} has {len(names)} parameters that the base lacks, first "
        f"{_listed(names)}{why}; only task heads may be left out of a merge: name the base that "
        "it was fine-tuned from"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _why(names: Sequence[str], ours: Config, theirs: Config) -> str:
    """The keys that differ between two configs and have to do with tensors of these names."""
    parts = {
        part
        for name in names
        for pattern, part in _EXPLAINED_BY.items()
        if re.search(pattern, name)
    }
    one, other = text_config(ours), text_config(theirs)
    keys = [
        f"{key} ({one.get(key, 'absent')} in the base, {other.get(key, 'absent')} in the expert)"
        for key in sorted(one | other)
        if any(part in key for part in parts) and one.get(key) != other.get(key)
    ]
    keys = list(dict.fromkeys([*keys, *differences(ours, theirs)]))
    return f" (config.json: {', '.join(keys)})" if keys else " (config.json does not say why)"


def check_configs(base_folder: Path, expert_folder: Path, expert_name: str) -> list[str]:
    """Check that what `config.json` says of base and expert is one architecture.

    A key is compared where both have it, or where its absence has one meaning.

    Returns:
        A note for each value that differs without changing what the parameters mean.

    Raises:
        CheckpointError: the architectures differ; all keys are named, with both values.
    """
    ours, theirs = read_config(base_folder), read_config(expert_folder)
    if not ours or not theirs:
        lacking = expert_folder if ours else base_folder
        return [f"{lacking} has no config.json: expert {expert_name} is not checked"]
    if differing := differences(ours, theirs):
        raise CheckpointError(
            f"expert {expert_name} is not of the base's architecture, as config.json says: "
            f"{', '.join(differing)}; it was not fine-tuned from this base: name the right one, "
            "or correct the expert's config.json if its parameters mean the same"
        )
    return [
        f"expert {expert_name}: {difference}; the merge has the base's"
        for difference in _differing(_meaning(ours), _meaning(theirs), _MAY_DIFFER)
    ]


def differences(base: Config, expert: Config) -> list[str]:
    """Keys, with both values, that give the same parameters another meaning in two configs."""
    if not base or not expert:
        return []
    ours, theirs = _meaning(base), _meaning(expert)
    differing = [
        *_differing(ours, theirs, _MUST_AGREE),
        *_differing(_rope(ours), _rope(theirs), sorted(_rope(ours) | _rope(theirs))),
    ]
    untied = ours.get("tie_word_embeddings") is True and theirs.get("tie_word_embeddings") is False
    if untied and ours.get("model_type") not in T5:
        differing.append("tie_word_embeddings (True in the base, False in the expert)")
    return differing


def _meaning(written: Config) -> dict[str, Any]:
    """A config with what it means by keys that it lacks."""
    config = text_config(written)
    if config.get("model_type") in ("t5", "longt5"):
        # T5 1.1 does not scale; until transformers 5, its untied output was the only sign of it.
        scaled = config.get("tie_word_embeddings") is not False
        config.setdefault("scale_decoder_outputs", scaled)
    attention = config.get("attn_config")
    if isinstance(attention, dict):
        config |= {f"attn_config.{key}": value for key, value in attention.items()}
    for key in ("clip_qkv", "attn_config.clip_qkv"):
        config[key] = config.get(key) or "none"
    activations = ("hidden_act", "hidden_activation", "activation_function", "activation")
    named = {
        key: _SYNONYMS.get(str(config[key]), config[key]) for key in activations if key in config
    }
    return _DEFAULTS | config | named


def _differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str]
) -> list[str]:
    return [
        f"{key} ({ours[key]} in the base, {theirs[key]} in the expert)"
        for key in keys
        if ours.get(key) is not None and theirs.get(key) is not None and ours[key] != theirs[key]
    ]


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embeddings as one flat mapping, whichever way the config writes them.

    transformers 5 writes `"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}`;
    earlier versions wrote `"rope_theta": 10000.0` and `"rope_scaling": null` or
    `{"type": "linear", "factor": 2.0}`. Where types of layers differ, there is one mapping for each
    type, which is compared as a whole.
    """
    parameters = config.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        return dict(parameters)
    first = DEFAULT_THETA if config.get("model_type") in USES_DEFAULT_THETA else None
    rope = {
        "rope_theta": config.get("rope_theta") or config.get("rotary_emb_base") or first,
        **(config.get("rope_scaling") or {}),
        **parameters,
    }
    older = rope.pop("type", None)
    return rope | {"rope_type": rope.get("rope_type") or older or "default"}
