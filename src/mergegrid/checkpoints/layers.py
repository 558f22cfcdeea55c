"""Where a tensor stands in a model, by its name: in a layer, or in the embeddings before them."""

import re
from typing import NamedTuple

_NUMBER = re.compile(r"(\d+)", re.ASCII)
# The first number counts: a T5 block has layers, and an expert of a mixture may have blocks.
_LAYER = re.compile(r"((?:.*?\.)?(?:layers?|h|blocks?))\.(\d+)\.")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_(tokens|positions|in)|(word_|tok_)?embeddings|wte|wpe|shared)\.", re.IGNORECASE
)


class Layer(NamedTuple):
    """Where a tensor stands, such as `Layer("model.layers", 3)`."""

    stack: str
    """Everything before the number; encoder and decoder are two stacks."""
    number: int
    """Number of the layer, from 0 on."""


def layer_of(name: str) -> Layer | None:
    """The layer of a tensor: `model.layers.3.mlp.up_proj.weight` is in layer 3 of `model.layers`.

    Names in transformers have `layers.3.`, `layer.3.`, `h.3.`, `block.3.` or `blocks.3.`; None for
    tensors outside layers, such as embeddings, final norms and heads.
    """
    match = _LAYER.match(name)
    return Layer(match[1], int(match[2])) if match else None


def reading_order(name: str) -> list[str | int]:
    """Key that sorts names of tensors with their numbers as numbers: layer 2 before layer 10."""
    # Text and numbers alternate, so equal places have equal types.
    return [int(part) if part.isdecimal() else part for part in _NUMBER.split(name)]


def is_embedding(name: str) -> bool:
    """Whether a tensor belongs to the embeddings of a model, before its first layer."""
    return _EMBEDDING.search(name) is not None
