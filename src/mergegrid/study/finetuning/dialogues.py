"""Questions with answers as token ids, and batches of them.

The ids of a question are those that a model is asked with; the answer follows as tokens of its
own, so a model learns to continue exactly what it will be given.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError, DataError

logger = logging.getLogger(__name__)

IGNORED = -100
"""Label of tokens that are not learnt."""


class Dialogues:
    """The tokenizer of a model, with the prompt around its questions."""

    def __init__(self, folder: Path, prompt: str, chat: bool) -> None:
        self._folder, self._prompt = folder, prompt
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._chat = chat
        if chat and not self._tokenizer.chat_template:
            raise CheckpointError(
                f"{folder} has no chat template; set `chat: false`, or take a model that has one"
            )
        if self._tokenizer.eos_token_id is None:
            raise CheckpointError(
                f"the tokenizer of {folder} names no end-of-text token, so no answer would ever "
                "end; set `eos_token` in its tokenizer_config.json"
            )
        self._ends = {self._tokenizer.eos_token_id, *_eos_ids(folder)}
        padding = self._tokenizer.pad_token_id
        self.padding: int = self._tokenizer.eos_token_id if padding is None else padding
        """The token that fills up a batch."""

    def encode(self, instruction: str, output: str) -> tuple[list[int], list[int]]:
        """Ids of a question, and of its answer up to the token that ends it."""
        if not self._chat:
            question = self._tokenizer(self._prompt.replace("{instruction}", instruction))
            answer = self._tokenizer(output, add_special_tokens=False)
            return question["input_ids"], [*answer["input_ids"], self._tokenizer.eos_token_id]
        turns = [{"role": "user", "content": instruction}]
        asked = self._render(turns, add_generation_prompt=True)
        told = self._render([*turns, {"role": "assistant", "content": output}])
        if not told.startswith(asked):
            raise CheckpointError(
                f"the chat template of {self._folder} writes a question in another way once it is "
                "answered, so no answer can be learnt; set `chat: false`"
            )
        return self._ids(asked), self._until_end(self._ids(told.removeprefix(asked)))

    def _render(self, turns: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _until_end(self, answer: list[int]) -> list[int]:
        """An answer up to the template's own end of turn; what follows is never generated."""
        last = max((at for at, token in enumerate(answer) if token in self._ends), default=None)
        return [*answer, self._tokenizer.eos_token_id] if last is None else answer[: last + 1]


class Encoded(Dataset[dict[str, Any]]):
    """Examples as token ids with labels; those cut before their answer are left out."""

    def __init__(self, dialogues: Dialogues, examples: pd.DataFrame, max_length: int) -> None:
        self._rows = []
        for instruction, output in zip(examples["instruction"], examples["output"], strict=True):
            question, answer = dialogues.encode(instruction, output)
            if len(question) < max_length:
                self._rows.append(
                    {
                        "input_ids": [*question, *answer][:max_length],
                        "labels": [*[IGNORED] * len(question), *answer][:max_length],
                    }
                )
        left_out = len(examples) - len(self._rows)
        if left_out:
            logger.info("left out %d questions longer than %d tokens", left_out, max_length)
        if not self._rows:
            raise DataError(
                f"no question is shorter than {max_length} tokens; raise `max_length`, "
                "or give examples for both splits"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._rows[row]


class Collator:
    """Makes batches, filled up on the right to the longest example."""

    def __init__(self, padding: int) -> None:
        self._padding = padding

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Tensors [examples, longest]: `input_ids`, `labels` and `attention_mask`."""
        longest = max(len(row["input_ids"]) for row in rows)

        def filled(values: Sequence[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([[*each, *[fill] * (longest - len(each))] for each in values])

        return {
            "input_ids": filled([row["input_ids"] for row in rows], self._padding),
            "labels": filled([row["labels"] for row in rows], IGNORED),
            "attention_mask": filled([[1] * len(row["input_ids"]) for row in rows], 0),
        }


def _eos_ids(folder: Path) -> set[int]:
    """Tokens at which the model stops, as its configs say."""
    paths = [folder / name for name in ("config.json", "generation_config.json")]
    named = [read_json(path).get("eos_token_id") for path in paths if path.is_file()]
    every = [token for each in named for token in (each if isinstance(each, list) else [each])]
    return {token for token in every if isinstance(token, int)}
