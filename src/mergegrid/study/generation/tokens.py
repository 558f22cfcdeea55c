"""Prompts to tokens and tokens to answers, the same way for every engine."""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.study.generation.backend import Completion, read_model_config
from mergegrid.study.schema.generation import Sampling

# Prompt tokens that are decoded together with an answer, which would lose its first space alone.
_CONTEXT = 6
_NO_LIMIT = 10**9


class PromptTokenizer:
    """The tokenizer of a model, checked against the model's config.

    Raises:
        CheckpointError: there is no tokenizer, or it adds other special tokens to a text than the
            model expects.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._config = read_model_config(model)
        path = model / "generation_config.json"
        self._generation = read_json(path) if path.is_file() else {}
        self.tokenizer = _load_tokenizer(model)
        self._starts = _ids(self._config, "bos_token_id") | _ids(self._generation, "bos_token_id")
        self._check_special_tokens()

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenize a raw prompt, with the start token if the model has one."""
        return tuple(self.tokenizer(text).input_ids)

    def chat(self, instruction: str) -> tuple[int, ...]:
        """Tokenize an instruction in the model's chat template.

        Raises:
            CheckpointError: there is no template, or it begins with a start token that the model
                does not know.
        """
        if not self.tokenizer.chat_template:
            raise CheckpointError(
                f"the tokenizer of {self._model} has no chat template, but `chat` is true; set it "
                "to false, or use the tokenizer of a model that has one"
            )
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": instruction}], add_generation_prompt=True, tokenize=False
        )
        # The template has already written the start token.
        ids = tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
        if ids and ids[0] == self.tokenizer.bos_token_id:
            self._check_start(ids[0])
        return ids

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        end = self.tokenizer.eos_token_id
        return frozenset(
            _ids(self._generation, "eos_token_id")
            | _ids(self._config, "eos_token_id")
            | ({end} if end is not None else set())
        )

    def max_length(self, requested: int | None) -> int:
        """Return the limit on the tokens of a question with its answer.

        Raises:
            ConfigError: the requested limit exceeds the model's.
        """
        limit = min(self._positions, self.tokenizer.model_max_length)
        if requested is not None and requested > limit:
            raise ConfigError(
                f"generation.max_model_len is {requested}, but {self._model} supports {limit} "
                f"tokens; lower it, or {self.remedy(requested)}"
            )
        return requested or limit

    def remedy(self, requested: int | None) -> str:
        """Return what makes room for longer texts, given the requested limit."""
        limit = self.tokenizer.model_max_length
        if requested is not None and requested < min(self._positions, limit):
            return f"raise generation.max_model_len; {self._model} supports {self.max_length(None)}"
        if limit < self._positions:
            return (
                f"raise model_max_length from {limit} in the tokenizer_config.json of the model's "
                f"source; its config.json allows {self._positions}"
            )
        return f"use a model that supports more than the {self._positions} tokens of its config"

    @property
    def _positions(self) -> int:
        """Number of tokens that the config allows, with its scaling of rotary embeddings."""
        config = self._config
        positions = config.get("max_position_embeddings") or config.get("n_positions")
        if not positions:
            return _NO_LIMIT
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        # Gemma 3 states the scaled limit, as do other models with scaling per layer.
        if str(config.get("model_type")).startswith("gemma3"):
            return int(positions)
        factor = rope.get("factor") or 1
        if original := rope.get("original_max_position_embeddings"):
            # Some configs state the scaled limit, some the limit in training: take the larger.
            return max(int(positions), int(original * factor))
        scaled = rope.get("rope_type", rope.get("type")) in ("linear", "dynamic", "yarn")
        return int(positions * factor) if scaled else int(positions)

    def completion(
        self, prompt: Sequence[int], ids: Sequence[int], sampling: Sampling
    ) -> Completion:
        """Decode the answer that follows a prompt.

        Args:
            prompt: prompt tokens.
            ids: generated tokens; those after an end token or a stop text are ignored.
            sampling: holds the stop texts.
        """
        end = next((place for place, token in enumerate(ids) if token in self.end_tokens), None)
        written = list(ids if end is None else ids[:end])
        text = self.text(prompt, written)
        if not has_stop(text, sampling.stop):
            if end is None:
                return Completion(text, "length", len(written))
            return Completion(text, "stop", len(written) + 1)
        tokens = bisect_left(
            range(len(written)),
            True,
            key=lambda count: has_stop(self.text(prompt, written[:count]), sampling.stop),
        )
        start = min(text.find(stop) for stop in sampling.stop if stop in text)
        return Completion(text[:start], "stop", tokens)

    def text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """Decode tokens that follow a prompt, without special tokens."""
        context = list(prompt[-_CONTEXT:])
        return self._decode([*context, *ids])[len(self._decode(context)) :]

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _check_special_tokens(self) -> None:
        """Check what the tokenizer adds before and after a text."""
        bare = list(self.tokenizer("a", add_special_tokens=False).input_ids)
        full = list(self.tokenizer("a").input_ids)
        places = range(len(full) - len(bare) + 1)
        start = next((place for place in places if full[place : place + len(bare)] == bare), None)
        if start is None:
            return
        if start:
            self._check_start(full[0])
        if len(full) > start + len(bare):
            raise CheckpointError(
                f"the tokenizer of {self._model} adds {self._describe(full[-1])} after every text, "
                "so no answer would follow; set its add_eos_token to false"
            )

    def _check_start(self, token: int) -> None:
        if self._starts and token not in self._starts:
            expected = " or ".join(self._describe(start) for start in sorted(self._starts))
            raise CheckpointError(
                f"the tokenizer of {self._model} starts a text with {self._describe(token)}, but "
                f"its config expects {expected}; use the tokenizer of the base"
            )

    def _describe(self, token: int) -> str:
        return f"{self.tokenizer.convert_ids_to_tokens(token)} ({token})"


def has_stop(text: str, stops: Sequence[str]) -> bool:
    """Return whether a text contains a stop text."""
    return any(stop in text for stop in stops)


def _load_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the tokenizer of {model} does not load ({str(error).splitlines()[0]}); "
            "download the model again"
        ) from error
    return tokenizer


def _ids(config: dict[str, Any], key: str) -> set[int]:
    value = config.get(key)
    if value is None:
        return set()
    return set(value) if isinstance(value, list) else {value}
