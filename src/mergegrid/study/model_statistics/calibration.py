"""Token sequences that the statistics of a decoder are gathered from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoTokenizer

from mergegrid.errors import DataError
from mergegrid.study.finetuning.chat_data import IGNORED, EncodedExamples, ExampleEncoder
from mergegrid.study.schema.decoder_jobs import StatisticsRequest


@dataclass(frozen=True)
class TokenSequence:
    """Tokens, and which of them count.

    Example: a question of three tokens and an answer of two.
        >>> TokenSequence([1, 20, 21, 30, 2], [False, False, False, True, True])
    """

    ids: list[int]
    """Token ids."""
    counted: list[bool]
    """Whether a token counts: those of answers, or all of a raw text."""

    @property
    def positions(self) -> Tensor:
        """Boolean mask [tokens - 1] of the positions from which counted tokens are predicted."""
        return torch.tensor(self.counted[1:], dtype=torch.bool)


def read_sequences(
    folder: Path, examples: pd.DataFrame, request: StatisticsRequest, count: int
) -> list[TokenSequence]:
    """The first examples of a table as token sequences, as many as statistics need if possible.

    Args:
        folder: has the tokenizer.
        examples: table with the column `text`, or with `instruction` and `output`; with a column
            `split`, its rows `train`.
        request: prompt, chat template and largest number of tokens.
        count: number of sequences with tokens that count.
    """
    if "split" in examples:
        examples = examples[examples["split"] == "train"]
    # Some are left out, as too long or too short, so a few more may be needed.
    rows = count
    while True:
        some = examples.head(rows)
        if "text" in examples:
            sequences = of_texts(folder, some["text"], request.max_length)
        else:
            encoder = ExampleEncoder(folder, request.prompt, request.chat)
            sequences = of_instructions(EncodedExamples(encoder, some, request.max_length))
        if len(sequences) >= count or rows >= len(examples):
            return sequences
        rows *= 2


def of_instructions(examples: EncodedExamples) -> list[TokenSequence]:
    """Instructions, of which the answers count."""
    rows = [examples[row] for row in range(len(examples))]
    return [
        TokenSequence(row["input_ids"], [label != IGNORED for label in row["labels"]])
        for row in rows
    ]


def of_texts(folder: Path, texts: Iterable[str], max_length: int) -> list[TokenSequence]:
    """Raw texts, of which all tokens count, cut to a number of tokens.

    Args:
        folder: has the tokenizer.
        texts: the texts; those of fewer than two tokens are left out.
        max_length: largest number of tokens.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = (tokenizer(text)["input_ids"][:max_length] for text in texts)
    return [TokenSequence(ids, [True] * len(ids)) for ids in encoded if len(ids) > 1]


def first(sequences: Sequence[TokenSequence], count: int, what: str) -> list[TokenSequence]:
    """The first sequences that have something that counts.

    Raises:
        DataError: there are too few.
    """
    counting = [sequence for sequence in sequences if any(sequence.counted[1:])]
    if count > len(counting):
        raise DataError(
            f"statistics of {what} need {count} examples, but there are {len(counting)}; lower "
            "`examples`, or give more texts"
        )
    return counting[:count]
