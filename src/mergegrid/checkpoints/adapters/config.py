"""The `adapter_config.json` of a LoRA adapter: what is supported, and the scale of each module.

    {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"],
     "rank_pattern": {"layers.0.self_attn.q_proj": 8}, "use_rslora": true, ...}

Source: PEFT 0.21, `tuners/lora/config.py` and `tuners/tuners_utils.py`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError

CONFIG = "adapter_config.json"
_ON_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the base as it is."""
_REFUSED = {
    "kasa_config": "KaSA changes the base",
    "alora_invocation_tokens": "aLoRA applies to some tokens of a text only",
    "arrow_config": "Arrow routes every token among several adapters",
    "use_bdlora": "BD-LoRA has block-diagonal matrices",
    "use_qalora": "QA-LoRA pools its inputs",
    "monteclora_config": "MonteCLoRA samples its weights",
    "layer_replication": "layer_replication gives the model more layers than its base",
}
"""Settings under which a model is not its base plus one product per tensor, with the reason."""
_USED = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora"),
    *("bias", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("init_lora_weights", "base_model_name_or_path", "revision", "ensure_weight_tying"),
}
_WITHOUT_EFFECT = {
    # On merged weights; `fan_in_fan_out` is decided by shapes, as PEFT corrects a wrong one.
    *("auto_mapping", "task_type", "inference_mode", "lora_dropout", "peft_version"),
    *("runtime_config", "megatron_config", "megatron_core", "velora_config", "fan_in_fan_out"),
    "qalora_group_size",
    # Of initializations; `init_lora_weights` says whether one was used.
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    # Of the first versions of PEFT.
    *("enable_lora", "merge_weights"),
}
_MERGE = "merge it into its base with PEFT (merge_and_unload) and use the resulting folder"


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a LoRA adapter that matter for merged weights."""

    path: Path
    """The file, for messages."""
    values: Mapping[str, Any]
    """Its contents."""

    @property
    def base_name(self) -> str:
        """The base as the adapter names it: a hub id or a path; empty if it does not."""
        return str(self.values.get("base_model_name_or_path") or "")

    @property
    def use_dora(self) -> bool:
        """Whether the lengths of changed rows are parameters of their own."""
        return bool(self.values.get("use_dora"))

    @property
    def bias(self) -> str:
        """Which biases were trained: `none`, `all` or `lora_only`."""
        return str(self.values.get("bias") or "none")

    def rank(self, module: str) -> int:
        """Rank of a module, by its path."""
        return int(_by_pattern(self.values.get("rank_pattern"), module, self.values["r"]))

    def scale(self, module: str) -> float:
        """alpha / r of a module, or alpha / sqrt(r) for rank-stabilized LoRA (arXiv 2312.03732)."""
        rank = self.rank(module)
        alpha = _by_pattern(self.values.get("alpha_pattern"), module, self.values["lora_alpha"])
        return float(alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank)

    def saves(self, module: str) -> bool:
        """Whether `modules_to_save` names a module, or one around it: `norm` names `input_norm`."""
        parts = module.split(".")
        around = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        saved = tuple(self.values.get("modules_to_save") or ())
        return any(path.endswith(saved) for path in around)

    def targets(self, module: str) -> bool:
        """Whether the config has PEFT adapt a module; PEFT drops the tensors of all others."""
        excluded = self.values.get("exclude_modules")
        saved = self.values.get("modules_to_save") or ()
        if (excluded and _matches(excluded, module)) or any(
            re.match(rf"(^|.*\.){name}($|\..*)", module) for name in saved
        ):
            return False
        targets = self.values.get("target_modules")
        if isinstance(targets, str):
            # `all-linear` is resolved before an adapter is saved, but not by every program.
            return targets == "all-linear" or _matches(targets, module)
        return _matches(targets or (), module) and self._in_layers(module)

    def targets_parameter(self, path: str) -> bool:
        """Whether `target_parameters` names a parameter, as in `mlp.experts.gate_up_proj`."""
        return _matches(self.values.get("target_parameters") or (), path)

    def token_ids(self, module: str) -> list[int] | None:
        """The tokens whose rows of an embedding were trained; None if there are none."""
        ids = self.values.get("trainable_token_indices")
        if isinstance(ids, Mapping):
            ids = next((ids[key] for key in ids if _matches((key,), module)), None)
        # A list without a name is of the input embedding, the only one with such rows in the file.
        return None if ids is None else [int(token) for token in ids]

    def _in_layers(self, module: str) -> bool:
        layers = self.values.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        patterns = self.values.get("layers_pattern") or [r"[^.]*"]
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            # The first number is the layer; a later one may be an expert of a mixture.
            if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
                return int(match[1]) in ([layers] if isinstance(layers, int) else layers)
        return False


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read the config of an adapter, and refuse what is not a sum of its base and low-rank changes.

    Raises:
        CheckpointError: the config is damaged, or of another kind than plain LoRA or DoRA.
    """
    path = folder / CONFIG
    values = read_json(path)
    kind = values.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"adapter {folder} is of type {kind}; only LORA is read: {_MERGE}")
    for key, reason in _REFUSED.items():
        if values.get(key):
            raise CheckpointError(f"{path}: {key} is set, and {reason}; {_MERGE}")
    init = values.get("init_lora_weights", True)
    if init not in _ON_THE_BASE:
        raise CheckpointError(
            f"{path}: init_lora_weights is {init!r}, which trains on a changed base, so the "
            "adapter does not fit the original one; convert it when saving "
            "(save_pretrained(path_initial_model_for_weight_conversion=...)), or merge it with "
            "PEFT where it was trained"
        )
    unknown = sorted(
        key for key in values.keys() - _USED - _WITHOUT_EFFECT - _REFUSED.keys() if values[key]
    )
    if unknown:
        raise CheckpointError(
            f"{path}: {unknown[0]} = {values[unknown[0]]!r} is not known here and may change the "
            f"weights; {_MERGE}"
        )
    _check_numbers(path, values)
    return AdapterConfig(path, values)


def _check_numbers(path: Path, values: Mapping[str, Any]) -> None:
    ranks = {"r": values.get("r"), **_patterns(path, values, "rank_pattern")}
    alphas = {"lora_alpha": values.get("lora_alpha"), **_patterns(path, values, "alpha_pattern")}
    for key, value in ranks.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(
                f"{path}: {key} is {value!r}, not a rank of at least 1; download the adapter again"
            )
    for key, value in alphas.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise CheckpointError(f"{path}: {key} is {value!r}, not a number; correct the file")
    if values.get("bias") not in (None, "none", "all", "lora_only"):
        raise CheckpointError(
            f"{path}: bias is {values['bias']!r}; it can be none, all or lora_only: correct it"
        )


def _patterns(path: Path, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    patterns = values.get(key) or {}
    try:
        for pattern in patterns:
            re.compile(pattern)
        return {f"{key}.{pattern}": value for pattern, value in patterns.items()}
    except (AttributeError, TypeError, re.error) as error:
        raise CheckpointError(
            f"{path}: {key} is not a mapping from patterns to numbers ({error}); correct the file"
        ) from error


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that ends a module path, starting at a dot or its start."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _matches(targets: str | Sequence[str], module: str) -> bool:
    """Whether a regular expression fits a module path, or one of several names ends it."""
    if isinstance(targets, str):
        return bool(re.fullmatch(targets, module))
    return any(module == target or module.endswith(f".{target}") for target in targets)
