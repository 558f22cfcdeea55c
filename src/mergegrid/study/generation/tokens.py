"""Questions to tokens, and tokens to answers: the same for every engine."""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.study.generation.backend import Completion, model_config
from mergegrid.study.schema.generation import Sampling

# Tokens of the prompt that are decoded with an answer: by itself, its first space would be lost.
_CONTEXT = 6
# What a tokenizer says that knows no limit.
_NO_LIMIT = 10**9


class Prompts:
    """The tokenizer of a model, checked against the model's config.

    Raises:
        CheckpointError: there is no tokenizer, or it puts other tokens around a text than the
            model knows.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._config = model_config(model)
        path = model / "generation_config.json"
        self._generation = read_json(path) if path.is_file() else {}
        self.tokenizer = _tokenizer(model)
        self._starts = _ids(self._config, "bos_token_id") | _ids(self._generation, "bos_token_id")
        self._check_special_tokens()

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a raw prompt, with the one that starts a text where the model has one."""
        return tuple(self.tokenizer(text).input_ids)

    def chat(self, instruction: str) -> tuple[int, ...]:
        """Tokens of an instruction in the model's chat template.

        Raises:
            CheckpointError: there is no template, or it starts with a token the model does not
                know as a start.
        """
        if not self.tokenizer.chat_template:
            raise CheckpointError(
                f"the tokenizer of {self._model} has no chat template, and chat is asked for; "
                "set chat to false, or take the tokenizer of a model that has one"
            )
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": instruction}], add_generation_prompt=True, tokenize=False
        )
        # The template has written the token that starts a text.
        ids = tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
        if ids and ids[0] == self.tokenizer.bos_token_id:
            self._check_start(ids[0])
        return ids

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        own = self.tokenizer.eos_token_id
        return frozenset(
            _ids(self._generation, "eos_token_id")
            | _ids(self._config, "eos_token_id")
            | ({own} if own is not None else set())
        )

    def longest(self, asked: int | None) -> int:
        """Tokens that a question and its answer may have together.

        Raises:
            ConfigError: more is asked for than the model allows.
        """
        allowed = min(self._positions, self.tokenizer.model_max_length)
        if asked is not None and asked > allowed:
            raise ConfigError(
                f"generation.max_model_len is {asked}, and {self._model} allows {allowed} tokens; "
                f"ask for no more, or {self.remedy(asked)}"
            )
        return asked or allowed

    def remedy(self, asked: int | None) -> str:
        """What gives longer texts room, where `asked` tokens are too few or too many."""
        own = self.tokenizer.model_max_length
        if asked is not None and asked < min(self._positions, own):
            return f"raise generation.max_model_len; {self._model} allows {self.longest(None)}"
        if own < self._positions:
            return (
                f"raise model_max_length, {own}, in the tokenizer_config.json of the model's "
                f"source; its config.json allows {self._positions}"
            )
        return f"take a model with room for more than the {self._positions} of its config.json"

    @property
    def _positions(self) -> int:
        """Tokens that the config allows, scaling of the rotary embeddings included."""
        config = self._config
        positions = config.get("max_position_embeddings") or config.get("n_positions")
        if not positions:
            return _NO_LIMIT
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        # Gemma 3 says what its scaling gives, as models with scaling by layer do.
        if str(config.get("model_type")).startswith("gemma3"):
            return int(positions)
        factor = rope.get("factor") or 1
        if before := rope.get("original_max_position_embeddings"):
            # The larger one: some configs say what scaling gives, some what training had.
            return max(int(positions), int(before * factor))
        scaled = rope.get("rope_type", rope.get("type")) in ("linear", "dynamic", "yarn")
        return int(positions * factor) if scaled else int(positions)

    def completion(
        self, prompt: Sequence[int], ids: Sequence[int], sampling: Sampling
    ) -> Completion:
        """The answer that a model wrote behind a prompt.

        Args:
            prompt: tokens of the prompt.
            ids: tokens that were written; what follows an end or a stop text does not count.
            sampling: says where an answer stops.
        """
        ended = next((place for place, token in enumerate(ids) if token in self.ends), None)
        written = list(ids if ended is None else ids[:ended])
        text = self.text(prompt, written)
        if not has_stop(text, sampling.stop):
            if ended is None:
                return Completion(text, "length", len(written))
            return Completion(text, "stop", len(written) + 1)
        tokens = bisect_left(
            range(len(written)),
            True,
            key=lambda count: has_stop(self.text(prompt, written[:count]), sampling.stop),
        )
        return Completion(text[: _first_stop(text, sampling.stop)], "stop", tokens)

    def text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text of tokens behind others, without special tokens."""
        before = list(prompt[-_CONTEXT:])
        return self._decode([*before, *ids])[len(self._decode(before)) :]

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _check_special_tokens(self) -> None:
        bare = list(self.tokenizer("a", add_special_tokens=False).input_ids)
        full = list(self.tokenizer("a").input_ids)
        places = range(len(full) - len(bare) + 1)
        start = next((at for at in places if full[at : at + len(bare)] == bare), None)
        if start is None:
            return
        if start:
            self._check_start(full[0])
        if len(full) > start + len(bare):
            raise CheckpointError(
                f"the tokenizer of {self._model} puts {self._named(full[-1])} behind every text, "
                "so that no answer would follow; set its add_eos_token to false"
            )

    def _check_start(self, found: int) -> None:
        if self._starts and found not in self._starts:
            wanted = " or ".join(self._named(start) for start in sorted(self._starts))
            raise CheckpointError(
                f"the tokenizer of {self._model} starts a text with {self._named(found)}, and its "
                f"config with {wanted}; use the tokenizer of the base"
            )

    def _named(self, token: int) -> str:
        return f"{self.tokenizer.convert_ids_to_tokens(token)} ({token})"


def has_stop(text: str, stops: Sequence[str]) -> bool:
    """Whether a stop text occurs."""
    return any(stop in text for stop in stops)


def _first_stop(text: str, stops: Sequence[str]) -> int:
    return min(text.find(stop) for stop in stops if stop in text)


def _tokenizer(model: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{model} has no tokenizer that loads ({str(error).splitlines()[0]}); "
            "fetch the model again"
        ) from error
    return tokenizer


def _ids(config: dict[str, Any], key: str) -> set[int]:
    value = config.get(key)
    if value is None:
        return set()
    return set(value) if isinstance(value, list) else {value}
