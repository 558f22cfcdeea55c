"""A tiny expert with three classes, and a batch of texts."""

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from mergegrid.study.tasks.encoding import Batch, encode


@pytest.fixture
def make_model():
    """Makes a classifier whose probabilities are neither near 0 or 1 nor equal."""

    def make(classes=3):
        torch.manual_seed(1)
        config = BertConfig(
            vocab_size=17,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
            num_labels=classes,
            initializer_range=0.4,
        )
        return BertForSequenceClassification(config).eval()

    return make


@pytest.fixture
def texts(base, examples):
    """Token ids of examples of two lengths; some contain a word twice."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    some = examples[:12].copy()
    some.loc[::3, "text_a"] = some["text_a"][::3] + " good film good"
    encoded = encode(tokenizer, some, 16)
    padded = tokenizer.pad(encoded, return_tensors="pt")
    return Batch(list(range(len(some))), dict(padded))
