"""Checks that an expert was fine-tuned from a base: same parameters, compatible config.

Equal shapes are not enough. `CodeLlama-13b-Python` has the shapes of `Llama-2-13b` but different
rotary embeddings, so their difference is not a mergeable delta.
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
"""Keys of `attn_config` in MPT and DBRX; the implementation (`attn_impl`) may differ."""
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
    # Attention patterns.
    *("is_decoder", "local_attention", "global_attn_every_n_layers", "sliding_window_pattern"),
    "attention_chunk_size",
    # Positions.
    *("position_embedding_type", "alibi", "relative_attention", "pos_att_type"),
    *("sinusoidal_pos_embds", "original_max_position_embeddings"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
    *("max_relative_positions", "position_buckets", "share_att_key"),
    *("rotary_pct", "rotary_dim", "partial_rotary_factor"),
    *("rope_local_base_freq", "no_rope_layers"),
    # Scaling of weights, scores and hidden states.
    *("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling"),
    *("attention_multiplier", "residual_multiplier", "embedding_multiplier"),
    *("scale_embedding", "scale_emb", "scale_depth", "scale_decoder_outputs"),
    "clip_qkv",
    # Order of norms and layers.
    *("do_layer_norm_before", "normalize_before", "norm_first", "norm_type"),
    *("apply_residual_connection_post_layernorm", "use_parallel_residual", "parallel_attn"),
    *("new_decoder_architecture", "layer_types", "attention_layers", "attention_types"),
    *("num_experts", "num_local_experts", "n_routed_experts", "norm_topk_prob"),
    *("routed_scaling_factor", "n_group", "topk_group", "topk_method", "scoring_func"),
    *(f"attn_config.{key}" for key in _ATTENTION),
)
_MAY_DIFFER = (
    # The first configs of Llama 2 had 1e-6 instead of 1e-5 by mistake, and experts copied them.
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    # With equal scaling of the rotary embeddings, only a limit on the length of inputs.
    *("max_position_embeddings", "n_positions"),
    # The attention window and the number of experts per token can be changed freely.
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
"""Values of missing keys that are the same for all architectures."""
_SYNONYMS = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"}
DEFAULT_THETA = 10000.0
"""The `rope_theta` of configs written before the key existed."""
USES_DEFAULT_THETA = (
    *("falcon", "gemma", "gemma2", "gpt_neox", "granite", "llama", "mistral", "olmo", "olmo2"),
    *("phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "stablelm", "starcoder2"),
)
"""Model types whose configs default to it."""
_EXPLAINED_BY = {
    r"\.bias$": "bias",
    r"norm": "norm",
    r"\.experts?\.|\.gate\.": "expert",
    r"\.\d+\.": "layer",
    r"lora_|adapter": "adapter",
    r"relative|distance|position": "position",
}
"""Patterns of tensor names, with the part of the config keys that create such tensors."""
_LISTED = 3
USES_BASE = "the merge uses the base's value"
"""End of the note on a value that differs."""
"""Number of tensors listed in an error."""


def check_homologous(base: Checkpoint, expert: Checkpoint, expert_name: str) -> None:
    """Check that an expert has every tensor of its base, in the same shape.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    missing = [name for name in base if name not in expert]
    if missing:
        raise CheckpointError(_lacks(missing, expert_name))
    for name in base:
        base_shape, expert_shape = base.infos[name].shape, expert.infos[name].shape
        if base_shape != expert_shape:
            raise CheckpointError(
                f"{name} has shape {base_shape} in the base and {expert_shape} in expert "
                f"{expert_name}; only models of equal shapes can be merged: specify the base that "
                "the expert was fine-tuned from"
            )


def unmerged_tensors(
    base: Checkpoint,
    expert: Checkpoint,
    expert_name: str,
    base_config: Config,
    expert_config: Config,
) -> tuple[list[str], list[str]]:
    """Find the heads and constants that only one of two models has; they are not merged.

    Returns:
        Tensors of the base that the expert lacks, and a note for each model with such heads.

    Raises:
        CheckpointError: only one of them has other parameters as well; the message lists these
            and the keys of `config.json` that explain them.
    """
    missing = [name for name in base if name not in expert]
    extra = [name for name in expert if name not in base]
    for names, message in ((missing, _lacks), (extra, _adds)):
        parameters = [
            name
            for name in names
            if not (is_task_head(name, base_config) or is_constant(name, base_config))
        ]
        if parameters:
            reason = _reason(parameters, base_config, expert_config)
            raise CheckpointError(message(parameters, expert_name, reason))
    notes = []
    for names, who in ((extra, f"expert {expert_name}"), (missing, "the base")):
        heads = [name for name in names if not is_constant(name, base_config)]
        if heads:
            notes.append(f"{_listed(heads)} of {who} is a task head and not merged")
    return missing, notes


def _lacks(names: Sequence[str], expert: str, reason: str = "") -> str:
    return (
        f"expert {expert} lacks {len(names)} of its base's tensors, first {_listed(names)}{reason}"
        "; it was not fine-tuned from this base: specify the right one"
    )


def _adds(names: Sequence[str], expert: str, reason: str = "") -> str:
    return (
        f"expert {expert} has {len(names)} parameters that the base lacks, first "
        f"{_listed(names)}{reason}; only task heads may be left out of a merge: specify the base "
        "that it was fine-tuned from"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _reason(names: Sequence[str], base_config: Config, expert_config: Config) -> str:
    """The differing config keys that explain tensors with these names."""
    parts = {
        part
        for name in names
        for pattern, part in _EXPLAINED_BY.items()
        if re.search(pattern, name)
    }
    base, expert = text_config(base_config), text_config(expert_config)
    keys = [
        _difference(key, base.get(key, "absent"), expert.get(key, "absent"))
        for key in sorted(base | expert)
        if any(part in key for part in parts) and base.get(key) != expert.get(key)
    ]
    keys = list(dict.fromkeys([*keys, *config_differences(base_config, expert_config)]))
    return f" (config.json: {', '.join(keys)})" if keys else " (config.json does not explain them)"


def check_configs(base_folder: Path, expert_folder: Path, expert_name: str) -> list[str]:
    """Check that base and expert have the same architecture according to `config.json`.

    A key is compared if both have it, or if its absence has one meaning.

    Returns:
        A note for each value that differs without changing the meaning of the parameters.

    Raises:
        CheckpointError: the architectures differ; the message lists all keys with both values.
    """
    base, expert = read_config(base_folder), read_config(expert_folder)
    if not base or not expert:
        folder = expert_folder if base else base_folder
        return [f"{folder} has no config.json: the config of expert {expert_name} is not checked"]
    if differing := config_differences(base, expert):
        raise CheckpointError(
            f"the architecture of expert {expert_name} differs from the base's in config.json: "
            f"{', '.join(differing)}; it was not fine-tuned from this base: specify the right one, "
            "or correct the expert's config.json if its parameters mean the same"
        )
    return [
        f"expert {expert_name}: {difference}; {USES_BASE}"
        for difference in _differences(_complete(base), _complete(expert), _MAY_DIFFER)
    ]


def config_differences(base_config: Config, expert_config: Config) -> list[str]:
    """Keys, with both values, that give the same parameters another meaning in the two configs."""
    if not base_config or not expert_config:
        return []
    base, expert = _complete(base_config), _complete(expert_config)
    base_rope, expert_rope = _rope(base), _rope(expert)
    differing = [
        *_differences(base, expert, _MUST_AGREE),
        *_differences(base_rope, expert_rope, sorted(base_rope | expert_rope)),
    ]
    key = "tie_word_embeddings"
    if base.get(key) is True and expert.get(key) is False and base.get("model_type") not in T5:
        differing.append(_difference(key, True, False))
    return differing


def _complete(written: Config) -> dict[str, Any]:
    """A config with the implied values of missing keys, and one spelling for each activation."""
    config = text_config(written)
    if config.get("model_type") in ("t5", "longt5"):
        # T5 1.1 does not scale; before transformers 5, only its untied output showed that.
        scaled = config.get("tie_word_embeddings") is not False
        config.setdefault("scale_decoder_outputs", scaled)
    attention = config.get("attn_config")
    if isinstance(attention, dict):
        config |= {f"attn_config.{key}": value for key, value in attention.items()}
    for key in ("clip_qkv", "attn_config.clip_qkv"):
        config[key] = config.get(key) or "none"
    for key in ("hidden_act", "hidden_activation", "activation_function", "activation"):
        if key in config:
            config[key] = _SYNONYMS.get(str(config[key]), config[key])
    return _DEFAULTS | config


def _differences(
    base: Mapping[str, Any], expert: Mapping[str, Any], keys: Iterable[str]
) -> list[str]:
    return [
        _difference(key, base[key], expert[key])
        for key in keys
        if base.get(key) is not None and expert.get(key) is not None and base[key] != expert[key]
    ]


def _difference(key: str, base: Any, expert: Any) -> str:
    return f"{key} ({base} in the base, {expert} in the expert)"


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of rotary embeddings as one flat mapping, from either format of configs.

    transformers 5 writes `"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}`;
    earlier versions wrote `"rope_theta": 10000.0` and `"rope_scaling": null` or
    `{"type": "linear", "factor": 2.0}`. If layer types differ, there is one mapping per type, which
    is compared as a whole.
    """
    parameters = config.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        return dict(parameters)
    default = DEFAULT_THETA if config.get("model_type") in USES_DEFAULT_THETA else None
    rope = {
        "rope_theta": config.get("rope_theta") or config.get("rotary_emb_base") or default,
        **(config.get("rope_scaling") or {}),
        **parameters,
    }
    old_key = rope.pop("type", None)
    return rope | {"rope_type": rope.get("rope_type") or old_key or "default"}
