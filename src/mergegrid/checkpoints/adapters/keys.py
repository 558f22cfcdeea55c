"""The tensors of an adapter file, sorted by module: which part of an adapter each one is.

PEFT writes `base_model.model.`, the path of the module, and the part:

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight       [r, in]
    base_model.model.model.embed_tokens.lora_embedding_A                 [r, tokens]
    base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.weight [out, r * experts]
    base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias     [out]
    base_model.model.lm_head.weight                                      [tokens, in]

Dumps of a whole training state also hold the adapter's name, as in `lora_A.default.weight`.
"""

import re
from collections.abc import Iterable

_PREFIX = "base_model.model."
_NAME = r"(?:\.(?!weight$|bias$)[^.]+)?"
_PARTS = {
    re.compile(rf"(.+)\.lora_A{_NAME}\.weight"): "A",
    re.compile(rf"(.+)\.lora_B{_NAME}\.weight"): "B",
    re.compile(rf"(.+)\.lora_B{_NAME}\.bias"): "B.bias",
    re.compile(rf"(.+)\.lora_embedding_A{_NAME}"): "embedding A",
    re.compile(rf"(.+)\.lora_embedding_B{_NAME}"): "embedding B",
    re.compile(rf"(.+)\.lora_magnitude_vector{_NAME}(?:\.weight)?"): "magnitude",
    re.compile(rf"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta{_NAME}"): "token rows",
    re.compile(r"(.+)\.base_layer\.weight"): "copied weight",
    re.compile(r"(.+)\.base_layer\.bias"): "layer bias",
}
_SAVED = re.compile(r"(.+)\.modules_to_save\.[^.]+\.(.+)")
_PARAMETER = re.compile(r"(.+)\.(weight|bias)")


Modules = dict[str, dict[str, str]]
"""By module path: names in the file by part, as in {"A": ..., "B": ...}."""


def by_module(keys: Iterable[str]) -> tuple[Modules, list[str]]:
    """Sort the tensors of a file by module path.

    Returns:
        Modules by path, with the parts `A`, `B`, `B.bias`, `embedding A`, `embedding B`,
        `magnitude`, `token rows`, `copied weight`, `layer bias`, and `weight` and `bias` of
        modules that are saved whole; and the keys that are none of these, or a second one.
    """
    modules: Modules = {}
    unknown: list[str] = []
    for key in keys:
        module, part = _parse(key.removeprefix(_PREFIX))
        parts = modules.get(module, {})
        if not part or part in parts:
            unknown.append(key)
        else:
            modules.setdefault(module, parts)[part] = key
    return modules, unknown


def _parse(key: str) -> tuple[str, str]:
    for pattern, part in _PARTS.items():
        if match := pattern.fullmatch(key):
            return match[1], part
    if match := _SAVED.fullmatch(key):
        key = f"{match[1]}.{match[2]}"
    if match := _PARAMETER.fullmatch(key):
        return match[1], match[2]
    return key, ""
