"""Drop rates: one for all tensors, or by expert and by tensor."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.settings import Settings

Rate = Annotated[float, Field(ge=0, le=1)]
MaskSeed = Annotated[int, Field(ge=0)]
Scope = Literal["per_tensor", "global"]
Arithmetic = Literal["exact", "reference"]

#: Groups of tensors with a name, as regular expressions over tensor names.
GROUPS = {
    "embeddings": (r"(^|\.)(embed_(tokens|positions|in)|(word_|tok_)?embeddings|wte|wpe|shared)\."),
    "norms": r"(^|[._])((layer)?_?norm\w*|ln_\w+)\.(weight|bias)$",
    "head": r"(^|\.)(lm_head|embed_out|score|classifier|cls)\.",
}
_LAYERS = re.compile(r"layers (\d+)(?:-(\d+))?")
_LAYER_OF = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


class Rule(Settings):
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
            raise ValueError(f"invalid layers {tensors!r}; use `layers 3` or `layers 0-3`")
        if tensors not in GROUPS and not _LAYERS.fullmatch(tensors) and "." not in tensors:
            if "*" in tensors:
                return tensors
            raise ValueError(
                f"{tensors!r} is not a known group of tensors; use one of {', '.join(GROUPS)}, "
                "`layers 0-3`, or a pattern over names such as `*.mlp.*`"
            )
        return tensors

    def applies(self, tensor: str) -> bool:
        """Whether the rule covers a tensor."""
        if self.tensors in GROUPS:
            return re.search(GROUPS[self.tensors], tensor, re.IGNORECASE) is not None
        layers = _LAYERS.fullmatch(self.tensors)
        if layers:
            layer = _LAYER_OF.search(tensor)
            first, last = int(layers[1]), int(layers[2] or layers[1])
            return layer is not None and first <= int(layer[1]) <= last
        return fnmatchcase(tensor, self.tensors)


class RatedSparsifier(Sparsifier):
    """A sparsifier with a drop rate."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"rates", "rules"})
    leaves_base: ClassVar[bool] = True
    """Whether only the base is left at rate 1."""

    rate: Rate
    """Share p that is dropped."""
    rates: dict[str, Rate] = {}
    """Rates of single experts, instead of `rate`."""
    rules: tuple[Rule, ...] = ()
    """Rates of single tensors, of every expert; the first rule that covers a tensor counts."""

    def rate_of(self, expert: str, tensor: str) -> float:
        """The drop rate of a tensor of an expert."""
        for rule in self.rules:
            if rule.applies(tensor):
                return rule.rate
        return self.rates.get(expert, self.rate)

    def groups(
        self, scope: Scope, expert: str, names: Iterable[str]
    ) -> Iterable[tuple[float, tuple[str, ...]]]:
        """Tensors that are cut together, with their rate: single ones, or all of one rate."""
        by_rate: dict[float, list[str]] = {}
        for name in names:
            rate = self.rate_of(expert, name)
            if 0 < rate < 1 and scope == "per_tensor":
                yield rate, (name,)
            elif 0 < rate < 1:
                by_rate.setdefault(rate, []).append(name)
        for rate, group in by_rate.items():
            yield rate, tuple(group)
