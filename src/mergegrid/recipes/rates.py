"""Drop rates: one for all, or by expert and by tensor."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from mergegrid.settings import Spec

Rate = Annotated[float, Field(ge=0, le=1)]

#: Names for what users most often treat apart, as regular expressions over tensor names.
GROUPS = {
    "embeddings": (r"(^|\.)(embed_(tokens|positions|in)|(word_|tok_)?embeddings|wte|wpe|shared)\."),
    "norms": r"(^|[._])((layer)?_?norm\w*|ln_\w+)\.(weight|bias)$",
    "head": r"(^|\.)(lm_head|embed_out|score|classifier|cls)\.",
}
_LAYERS = re.compile(r"layers (\d+)(?:-(\d+))?")
_LAYER_OF = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


class Rule(Spec):
    """Another rate for some tensors; rate 0 leaves their deltas as they are."""

    tensors: str
    """`embeddings`, `norms`, `head`, `layers 0-3`, or a pattern such as `*.mlp.*`."""
    rate: Rate
    """Share p that is dropped of these tensors."""

    @field_validator("tensors")
    @classmethod
    def _known(cls, tensors: str) -> str:
        layers = _LAYERS.fullmatch(tensors)
        backwards = layers and layers[2] and int(layers[2]) < int(layers[1])
        if backwards or (tensors.startswith("layers") and not layers and "." not in tensors):
            raise ValueError(f"{tensors!r} names no layers; write `layers 3` or `layers 0-3`")
        if tensors not in GROUPS and not _LAYERS.fullmatch(tensors) and "." not in tensors:
            if "*" in tensors:
                return tensors
            raise ValueError(
                f"{tensors!r} is no group of tensors; write one of {', '.join(GROUPS)}, "
                "`layers 0-3`, or a pattern over names such as `*.mlp.*`"
            )
        return tensors

    def applies(self, tensor: str) -> bool:
        """Whether the rule is about a tensor."""
        if self.tensors in GROUPS:
            return re.search(GROUPS[self.tensors], tensor, re.IGNORECASE) is not None
        layers = _LAYERS.fullmatch(self.tensors)
        if layers:
            layer = _LAYER_OF.search(tensor)
            first, last = int(layers[1]), int(layers[2] or layers[1])
            return layer is not None and first <= int(layer[1]) <= last
        return fnmatchcase(tensor, self.tensors)


class Rated(Spec):
    """A spec with a drop rate."""

    refinements: ClassVar[frozenset[str]] = frozenset({"rates", "rules"})

    rate: Rate
    """Share p that is dropped."""
    rates: dict[str, Rate] = {}
    """Rates of single experts, instead of `rate`."""
    rules: tuple[Rule, ...] = ()
    """Rates of single tensors, of every expert; the first rule that applies counts."""

    def rate_of(self, expert: str, tensor: str) -> float:
        """The rate at which a tensor of an expert is thinned."""
        for rule in self.rules:
            if rule.applies(tensor):
                return rule.rate
        return self.rates.get(expert, self.rate)
