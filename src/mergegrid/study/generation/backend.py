"""The interface of a generation backend: requests in, completions out.

A backend has an identity, such as

    {"backend": "vllm", "dtype": "bfloat16", "device": "NVIDIA H100 80GB HBM3",
     "tensor_parallel": 1}

Answers of engines with different identities are never mixed. Library versions are not part of the
identity; they are recorded with the answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError, MergegridError
from mergegrid.study.schema.generation import Sampling

EngineIdentity = Mapping[str, str | int]


class GenerationError(MergegridError):
    """The engine does not hold the model that it was given."""


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and its sampling parameters."""

    ids: tuple[int, ...]
    """Prompt tokens."""
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """One answer."""

    text: str
    """Text without special tokens, cut before the first stop text."""
    finish: Literal["stop", "length"]
    """`stop` at an end token or stop text, `length` at the token limit."""
    tokens: int
    """Number of generated tokens, including the end token."""


class Backend(Protocol):
    """An engine with a model loaded."""

    engine: EngineIdentity

    def generate(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield the index of each request with its completions, in the order they finish."""

    def close(self) -> None:
        """Free the memory of the engine."""


class SwappableBackend(Backend, Protocol):
    """An engine whose model can be replaced by another variant."""

    def load(self, variant: str) -> None:
        """Replace the model by the merge of a recipe, given as JSON.

        Raises:
            GenerationError: the engine does not hold the merged model.
        """


def read_model_config(model: Path) -> dict[str, Any]:
    """Read `config.json`, with the keys of the language model at the top level.

    Raises:
        CheckpointError: there is no config.
    """
    path = model / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{model} has no config.json; pass a model folder")
    config = read_json(path)
    text = config.get("text_config")
    return config | text if isinstance(text, dict) else config
