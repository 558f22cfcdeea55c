"""The folder of a merged model: dtype, shards, tokenizer and vocabulary."""

import re
from typing import Literal

from pydantic import field_validator

from mergegrid.checkpoints.vocabulary import VocabularyPolicy
from mergegrid.errors import ConfigError
from mergegrid.settings import Settings

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

    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """What parameters are rounded to: the base's own dtype, tensor by tensor, or another."""
    shard_size: str = "5GB"
    """The largest size of a file, as in `5GB` or `512MiB`; a larger tensor has one to itself."""
    tokenizer: str = "base"
    """Whose tokenizer goes with the model: `base`, or the name of an expert."""
    vocabulary: VocabularyPolicy = "base_rows"
    """What happens to embedding rows beyond the base's: `base_rows` leaves them out; `pad` gives
    every model as many rows as the largest has, as the paper does, with the mean of its others."""

    @property
    def shard_bytes(self) -> int:
        """`shard_size` in bytes."""
        return parse_size(self.shard_size)

    @field_validator("shard_size")
    @classmethod
    def _positive(cls, text: str) -> str:
        if parse_size(text) < 1:
            raise ValueError(f"{text!r} is too small for a file; use e.g. 5GB or 512MiB")
        return text
