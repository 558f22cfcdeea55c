"""The folder of a merged model: dtype, shards, tokenizer and vocabulary."""

import re
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mergegrid.checkpoints.layer_ranges import Slice, check_slices
from mergegrid.checkpoints.output_tokenizer import (
    AS_TOKENIZER,
    AUTO,
    TokenizerChoice,
    is_template,
)
from mergegrid.checkpoints.union_rows import TokenRow
from mergegrid.checkpoints.vocabulary import VocabularyPolicy, VocabularySettings
from mergegrid.errors import ConfigError
from mergegrid.settings import Settings

_OF_MODELS = (
    *("shard_size", "vocabulary", "tokens", "pad_to_multiple_of", "chat_template", "config"),
    "layers",
)
"""Settings that an adapter has no use for."""
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `512MiB` or `1000`.

    Raises:
        ValueError: the text is not a size.
    """
    pattern = r"(\d{1,15}(?:\.\d+)?)\s*(?:([KMGT]?)(I?)B)?"
    match = re.fullmatch(pattern, text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"invalid size {text!r}; use e.g. 5GB or 512MiB")
    thousand = 1024 if match[3] else 1000
    return int(float(match[1]) * thousand ** _UNITS[(match[2] or "").upper()])


def byte_limit(size: int | str | None, option: str) -> int | None:
    """A memory limit in bytes, from bytes or a text such as `1GiB`; None: no limit.

    Raises:
        ConfigError: the text is not a size; the message names the option.
    """
    try:
        return parse_size(size) if isinstance(size, str) else size
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


class Output(Settings):
    """The folder that is written."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset(
        {"chat_template", "config", "form", "layers", "pad_to_multiple_of", "rank", "tokens"}
    )

    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """What parameters are rounded to: the base's own dtype, tensor by tensor, or another. The
    factors of an adapter are float32 unless another is given."""
    shard_size: str = "5GB"
    """The largest size of a file, as in `5GB` or `512MiB`; a larger tensor has one to itself."""
    tokenizer: str = AUTO
    """Whose tokenizer goes with the model, and with it the end tokens: `base`, the name of an
    expert, or `auto`: the base's, unless it has no chat template and all experts share one."""
    chat_template: str = AS_TOKENIZER
    """Whose chat templates go with the model: `tokenizer` for those of the same model, `base`, the
    name of an expert, or the text of a Jinja template."""
    config: str = "base"
    """Whose `config.json` goes with the model, with the number of positions and settings of rotary
    embeddings: `base`, or the name of an expert."""
    vocabulary: VocabularyPolicy = "base_rows"
    """What happens to embedding rows and tokens that the base lacks: `base_rows` leaves them out;
    `pad` gives every model as many rows as the largest has, as the paper does, with the mean of its
    others; `union` adds the tokens of all models and aligns rows by token."""
    tokens: dict[str, TokenRow] = {}
    """With `union`, where the rows of single tokens come from; tokens that no model has are added.
    For example `{"<|im_start|>": {source: chat, force: true}}`."""
    pad_to_multiple_of: Annotated[int, Field(ge=1)] = 1
    """The number of embedding rows is rounded up to a multiple of this, with the mean of the
    others."""
    layers: tuple[Slice, ...] = ()
    """Layers of the merged model, if they are stacked from ranges of the models' layers: slices,
    each of all models (`base` and the experts), which are merged, or of one, taken as they are."""
    form: Literal["model", "adapter"] = "model"
    """What is written: a whole model, or, where all experts are LoRA adapters and the method sums
    their deltas, one adapter."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """The largest rank of an adapter; unset, no direction of the sum is lost."""

    @property
    def shard_bytes(self) -> int:
        """`shard_size` in bytes."""
        return parse_size(self.shard_size)

    @property
    def vocabulary_settings(self) -> VocabularySettings:
        """How models with different rows or tokens are brought together."""
        return VocabularySettings(self.vocabulary, self.tokens, self.pad_to_multiple_of)

    @property
    def tokenizer_choice(self) -> TokenizerChoice:
        """Whose tokenizer and chat templates go with the model."""
        return TokenizerChoice(self.tokenizer, self.chat_template)

    def check_experts(self, experts: Iterable[str]) -> None:
        """Check that settings refer to the base and these experts.

        Raises:
            ValueError: a setting refers to another model, or slices of layers are impossible.
        """
        known = sorted(experts)
        check_slices(self.layers, known)
        template = "tokenizer" if is_template(self.chat_template) else self.chat_template
        for key, name, others in (
            ("tokenizer", self.tokenizer, ("base", AUTO)),
            ("config", self.config, ("base",)),
            ("chat_template", template, ("base", AS_TOKENIZER)),
            *(
                (f"tokens.{token}", row.source, ("base", "zero"))
                for token, row in self.tokens.items()
            ),
        ):
            if name not in (*others, *known):
                raise ValueError(
                    f"output.{key} = {name!r} is not an expert; choose {', '.join(others)} or one "
                    f"of {', '.join(known)}"
                )

    @model_validator(mode="after")
    def _tokens_need_a_union(self) -> "Output":
        if self.tokens and self.vocabulary != "union":
            raise ValueError(
                f"tokens needs vocabulary: union, but vocabulary is {self.vocabulary}; set it to "
                "union, or omit tokens"
            )
        return self

    @field_validator("shard_size")
    @classmethod
    def _positive(cls, text: str) -> str:
        if parse_size(text) < 1:
            raise ValueError(f"{text!r} is too small for a file; use e.g. 5GB or 512MiB")
        return text

    @model_validator(mode="after")
    def _of_one_form(self) -> "Output":
        if self.form == "model" and self.rank is not None:
            raise ValueError("rank is for `form: adapter`; add that, or omit rank")
        for key in _OF_MODELS if self.form == "adapter" else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for whole models; omit it, or `form: adapter`")
        return self
