"""A tiny real encoder, and an expert for a task that it can learn, as fixtures."""

import pytest

WORDS = ["good", "great", "fine", "nice", "bad", "poor", "awful", "sad", "film", "book", "the", "a"]


@pytest.fixture(scope="session")
def raw_encoder(tmp_path_factory):
    """An encoder as published: `BertModel` names, without a classification head."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("raw") / "encoder"
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(raw_encoder, tmp_path_factory):
    """The encoder as the workflow keeps it."""
    from mergegrid.study.encoders.importing import import_base

    folder = tmp_path_factory.mktemp("base") / "base"
    import_base(raw_encoder, folder, {"source": "test"})
    return folder


@pytest.fixture(scope="session")
def examples():
    """Praise or blame, by one word among others: 192 to learn from, 16 to choose, 24 to test."""
    import pandas as pd

    rows = []
    for index in range(232):
        word = WORDS[index % 8]
        split = "train" if index < 192 else "validation" if index < 208 else "test"
        text = f"{['the', 'a'][index % 2]} {word} {['film', 'book'][index // 8 % 2]}"
        rows.append((split, text, None, int(index % 8 < 4)))
    return pd.DataFrame(rows, columns=["split", "text_a", "text_b", "label"])


@pytest.fixture(scope="session")
def request_for_praise():
    """Three epochs, enough to learn it."""
    from mergegrid.study.schema.encoder_jobs import FinetuneRequest
    from mergegrid.study.schema.tasks import Target

    target = Target(task="praise", metric="accuracy", classes=[0, 1], max_length=16)
    settings = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 8}
    return FinetuneRequest(target=target, settings=settings, seed=0)


@pytest.fixture(scope="session")
def expert(base, examples, request_for_praise, tmp_path_factory):
    """A fine-tuned expert."""
    from mergegrid.study.finetuning.classifier import finetune

    folder = tmp_path_factory.mktemp("expert") / "seed~0"
    finetune(base, request_for_praise, examples, folder)
    return folder
