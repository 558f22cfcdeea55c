"""Token ids of texts: truncated, grouped by length, padded only within a batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch


@dataclass(frozen=True)
class Batch:
    """Examples of similar length."""

    rows: list[int]
    """Positions of the examples in the split."""
    inputs: dict[str, torch.Tensor]
    """Inputs of the model: int64 tensors [examples, tokens]."""


def encode(tokenizer: Any, examples: pd.DataFrame, max_length: int) -> list[dict[str, list[int]]]:
    """Token ids and masks of each example, without padding."""
    second = examples["text_b"].tolist()
    encoded = tokenizer(
        examples["text_a"].tolist(),
        None if pd.isna(second[0]) else second,
        truncation=True,
        max_length=max_length,
    )
    return [{key: values[row] for key, values in encoded.items()} for row in range(len(examples))]


def batches(
    tokenizer: Any, encoded: list[dict[str, list[int]]], max_tokens: int, device: str
) -> Iterator[Batch]:
    """Batches of at most `max_tokens` tokens with padding, longest examples first."""
    lengths = np.array([len(example["input_ids"]) for example in encoded])
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        rows = order[start : start + size].tolist()
        padded = tokenizer.pad([encoded[row] for row in rows], return_tensors="pt")
        yield Batch(rows, {key: tensor.to(device) for key, tensor in padded.items()})
        start += size
