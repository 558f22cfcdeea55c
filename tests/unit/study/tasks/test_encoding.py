import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from mergegrid.study.tasks.encoding import batches, encode


@pytest.fixture
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def frame(texts, seconds=None):
    return pd.DataFrame({"text_a": texts, "text_b": seconds or [None] * len(texts)})


def test_every_example_is_in_exactly_one_batch_within_the_bound(tokenizer):
    texts = ["the film " * (index % 7 + 1) for index in range(40)]
    encoded = encode(tokenizer, frame(texts), max_length=32)
    made = list(batches(tokenizer, encoded, 64, "cpu"))
    assert sorted(row for batch in made for row in batch.rows) == list(range(40))
    assert all(batch.inputs["input_ids"].numel() <= 64 for batch in made)


def test_padding_is_masked(tokenizer):
    encoded = encode(tokenizer, frame(["good", "good film"]), max_length=32)
    (batch,) = batches(tokenizer, encoded, 64, "cpu")
    lengths = [len(encoded[row]["input_ids"]) for row in batch.rows]
    assert batch.inputs["attention_mask"].sum(1).tolist() == lengths == [4, 3]


def test_long_texts_are_cut(tokenizer):
    encoded = encode(tokenizer, frame(["film " * 50]), max_length=16)
    assert len(encoded[0]["input_ids"]) == 16


def test_pairs_are_two_segments(tokenizer):
    encoded = encode(tokenizer, frame(["good film"], ["bad book"]), max_length=16)
    assert encoded[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_the_order_of_batches_does_not_matter_to_a_model(tokenizer, expert):
    from mergegrid.study.encoders.importing import load_classifier

    model = load_classifier(expert).eval()
    encoded = encode(tokenizer, frame(["good film", "bad", "a sad book", "nice"]), max_length=16)
    logits = []
    for bound in (4, 64):
        out = torch.empty(4, 2)
        for batch in batches(tokenizer, encoded, bound, "cpu"):
            out[batch.rows] = model(**batch.inputs).logits.detach()
        logits.append(out)
    torch.testing.assert_close(*logits)
