"""Kinds of layers by tensor name: which matrices LoRA can adapt, and how they are stored.

Names are those of transformers' architectures; a test compares this table with their classes.
"""

import re
from enum import StrEnum

from mergegrid.checkpoints.architectures import Config, is_output, is_task_head, text_config

_CONV1D_TYPES = frozenset(("gpt2", "openai-gpt", "imagegpt", "decision_transformer"))
"""Model types whose attention and MLP are `Conv1D` layers, stored as [in, out]."""
_CONV1D_NAMES = frozenset(("c_attn", "c_fc", "c_proj", "q_attn"))
_EMBEDDING = re.compile(
    r"""(\w+_)?embed(ding|dings)? | embed_(?!out)\w+ | wte | wpe | w | shared
    | relative_attention_bias""",
    re.VERBOSE,
)
_ROUTER = frozenset(("gate", "router"))


class LayerKind(StrEnum):
    """What a parameter belongs to."""

    LINEAR = "linear layer"
    CONV1D = "linear layer stored as [in, out]"
    EMBEDDING = "embedding"
    OUTPUT = "output embedding"
    TASK_HEAD = "task head"
    OTHER = "norm, bias or other parameter"


def layer_kind(name: str, shape: tuple[int, ...], config: Config) -> LayerKind:
    """The kind of layer that a tensor belongs to, by its canonical name.

    Routers of mixtures of experts are `OTHER`: transformers has classes of their own for them,
    which PEFT does not adapt.
    """
    module, _, leaf = name.rpartition(".")
    last = module.rpartition(".")[2]
    if is_task_head(name, config):
        return LayerKind.TASK_HEAD
    if leaf != "weight" or len(shape) != 2 or last in _ROUTER:
        return LayerKind.OTHER
    if is_output(name):
        return LayerKind.OUTPUT
    if _EMBEDDING.fullmatch(last):
        return LayerKind.EMBEDDING
    return LayerKind.CONV1D if is_conv1d(module, config) else LayerKind.LINEAR


def is_conv1d(module: str, config: Config) -> bool:
    """Whether a module is a linear layer that stores its weight as [in, out]."""
    kinds = {str(config.get("model_type")), str(text_config(config).get("model_type"))}
    return bool(kinds & _CONV1D_TYPES) and module.rpartition(".")[2] in _CONV1D_NAMES
