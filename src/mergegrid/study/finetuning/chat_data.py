"""Token ids of questions and answers, and batches of them.

A question is tokenized exactly as at generation time, and the answer follows as separate tokens, so
that a model learns to continue what it will be given.
"""

import logging
from array import array
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
"""Label of tokens without a loss."""


class ExampleEncoder:
    """Tokenizes a question, in its prompt or chat template, and its answer.

    Raises:
        CheckpointError: the tokenizer has no end-of-text token, or no chat template for a chat.
    """

    def __init__(self, folder: Path, prompt: str, chat: bool) -> None:
        self._folder, self._prompt = folder, prompt
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._chat = chat
        if chat and not self._tokenizer.chat_template:
            raise CheckpointError(
                f"{folder} has no chat template; set `chat: false`, or use a model that has one"
            )
        if self._tokenizer.eos_token_id is None:
            raise CheckpointError(
                f"the tokenizer of {folder} has no end-of-text token, so answers would never end; "
                "set `eos_token` in its tokenizer_config.json"
            )
        self._ends = {self._tokenizer.eos_token_id, *_eos_ids(folder)}
        padding = self._tokenizer.pad_token_id
        self.pad_token_id: int = self._tokenizer.eos_token_id if padding is None else padding

    def encode(self, instruction: str, output: str) -> tuple[list[int], list[int]]:
        """Return the ids of a question, and of its answer up to the token that ends it.

        Raises:
            CheckpointError: the chat template changes a question once it is answered.
        """
        if not self._chat:
            question = self._tokenizer(self._prompt.replace("{instruction}", instruction))
            answer = self._tokenizer(output, add_special_tokens=False)
            return question["input_ids"], [*answer["input_ids"], self._tokenizer.eos_token_id]
        turns = [{"role": "user", "content": instruction}]
        question_text = self._render(turns, add_generation_prompt=True)
        chat_text = self._render([*turns, {"role": "assistant", "content": output}])
        if not chat_text.startswith(question_text):
            raise CheckpointError(
                f"the chat template of {self._folder} renders a question differently once it is "
                "answered, so answers cannot be learned; set `chat: false`"
            )
        answer_text = chat_text.removeprefix(question_text)
        return self._ids(question_text), self._until_end(self._ids(answer_text))

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
        """Cut an answer after the template's end of turn; what follows is never generated."""
        last = max((at for at, token in enumerate(answer) if token in self._ends), default=None)
        return [*answer, self._tokenizer.eos_token_id] if last is None else answer[: last + 1]


class EncodedExamples(Dataset[dict[str, Any]]):
    """Token ids and labels of examples; questions that leave no room for an answer are dropped.

    All ids are in one array, 4 bytes each: lists of Python integers would take 47.

    Raises:
        DataError: no example is left.
    """

    def __init__(self, encoder: ExampleEncoder, examples: pd.DataFrame, max_length: int) -> None:
        self._ids, self._ends, self._questions = array("i"), array("q"), array("i")
        for instruction, output in zip(examples["instruction"], examples["output"], strict=True):
            question, answer = encoder.encode(instruction, output)
            if len(question) < max_length:
                self._ids.extend([*question, *answer][:max_length])
                self._ends.append(len(self._ids))
                self._questions.append(len(question))
        dropped = len(examples) - len(self)
        if dropped:
            logger.info("dropped %d questions of %d tokens or more", dropped, max_length)
        if not len(self):
            raise DataError(
                f"no question is shorter than {max_length} tokens; raise `max_length`, or add "
                "examples to both splits"
            )

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> dict[str, Any]:
        ids = self._ids[self._ends[row - 1] if row else 0 : self._ends[row]].tolist()
        question = self._questions[row]
        return {"input_ids": ids, "labels": [IGNORED] * question + ids[question:]}


class PaddingCollator:
    """Makes batches, padded on the right to the longest example."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Tensors [examples, longest]: `input_ids`, `labels` and `attention_mask`."""
        longest = max(len(row["input_ids"]) for row in rows)

        def padded(sequences: Sequence[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([ids + [fill] * (longest - len(ids)) for ids in sequences])

        return {
            "input_ids": padded([row["input_ids"] for row in rows], self._pad_token_id),
            "labels": padded([row["labels"] for row in rows], IGNORED),
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        }


def _eos_ids(folder: Path) -> set[int]:
    """Read the ids of the tokens at which the model stops from its configs."""
    paths = [folder / name for name in ("config.json", "generation_config.json")]
    values = [read_json(path).get("eos_token_id") for path in paths if path.is_file()]
    ids = [token for value in values for token in (value if isinstance(value, list) else [value])]
    return {token for token in ids if isinstance(token, int)}
