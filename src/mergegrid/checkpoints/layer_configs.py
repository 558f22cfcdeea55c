"""The config of a model with stacked layers: number of layers, and what kind each of them is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.architectures import Config, text_config
from mergegrid.checkpoints.layer_ranges import Slice, layer_numbers
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.model_files import write_config
from mergegrid.errors import CheckpointError

_NUMBERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")
"""Keys with a value for each layer."""
_PERIODS = {
    "decoder_sparse_step": 1,
    "expert_layer_period": 1,
    "first_k_dense_replace": 0,
    "interleave_moe_layer_step": 1,
    "moe_layer_freq": 1,
    "num_kv_shared_layers": 0,
}
"""Keys by which the number of a layer decides its kind, and their values without effect."""
_ATTENTION_PERIODS = (
    *("attn_layer_period", "full_attention_interval", "global_attn_every_n_layers"),
    *("no_rope_layer_interval", "sliding_window_pattern"),
)
"""The same for the kind of attention, which `layer_types` states instead."""
_INDICES = ("attention_types", "attn_layer_indices", "mlp_only_layers", "moe_layers")
"""Keys that list numbers of layers."""
_ALTERNATING = ("cohere2", "exaone4", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "llama4_text")
"""Model types whose layers differ in attention though their old configs have no key for it."""


def stacked_config(config: Config, slices: Sequence[Slice]) -> dict[str, Any]:
    """A config for the layers of slices.

    Raises:
        CheckpointError: the config has no number of layers, or the kind of a layer depends on its
            number in a way that stacking would change.
    """
    text = text_config(config)
    _check_kinds(text)
    layers = layer_numbers(slices)
    inner = config.get("text_config")
    part = inner if isinstance(inner, dict) else config
    counts = {key: part[key] for key in _NUMBERS if isinstance(part.get(key), int)}
    if len(set(counts.values())) != 1:
        raise CheckpointError(
            f"config.json of the base states no single number of layers (one of "
            f"{', '.join(_NUMBERS)}); add num_hidden_layers, or remove output.layers"
        )
    changed = dict(part) | dict.fromkeys(counts, len(layers))
    for key in _LISTS:
        kinds = part.get(key)
        if not kinds:
            continue
        for number, sources in enumerate(layers):
            if len({kinds[source] for source in sources}) > 1:
                raise CheckpointError(
                    f"layer {number} of the output would be merged from layers "
                    f"{' and '.join(map(str, sorted(sources)))}, which differ in {key} of "
                    "config.json; choose ranges whose layers are of the same kind"
                )
        changed[key] = [kinds[min(sources)] for sources in layers]
    return {**config, "text_config": changed} if part is inner else changed


def write_stacked_config(folder: Path, slices: Sequence[Slice]) -> None:
    """Adapt the config in a folder to the layers of slices."""
    write_config(folder, stacked_config(read_json(folder / "config.json"), slices))


def _check_kinds(config: Config) -> None:
    deciding = {key for key, idle in _PERIODS.items() if config.get(key) not in (None, idle)}
    deciding |= {key for key in _INDICES if config.get(key)}
    if config.get("scale_attn_by_inverse_layer_idx"):
        deciding.add("scale_attn_by_inverse_layer_idx")
    if not config.get("layer_types"):
        deciding |= {key for key in _ATTENTION_PERIODS if config.get(key)}
        if config.get("use_sliding_window"):
            deciding.add("max_window_layers")
        if config.get("model_type") in _ALTERNATING:
            deciding.add("model_type")
    if deciding:
        key = min(deciding)
        raise CheckpointError(
            f"config.json: {key} = {config.get(key)!r} makes the kind of a layer depend on its "
            "number, which stacking changes; save the base with a transformers that writes "
            "layer_types, or remove output.layers"
        )
