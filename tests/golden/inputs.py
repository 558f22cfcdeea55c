"""Small models and examples that are the same to the bit on every machine.

Weights are whole numbers divided by powers of two, drawn by NumPy for each tensor by its name.
Nothing is dropped out: the random numbers of torch depend on the processor.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from small_models import tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
)

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.study.encoders.importing import import_base, import_expert
from mergegrid.study.schema.encoder_jobs import FinetuneRequest
from mergegrid.study.schema.tasks import Target

WORDS = ["good", "great", "fine", "nice", "bad", "poor", "awful", "sad", "film", "book", "the", "a"]
PRAISE = Target(task="praise", metric="accuracy", classes=[0, 1], max_length=16)
KIND = Target(task="kind", metric="accuracy", classes=["a", "b", "c"], max_length=16)
RATING = Target(task="rating", metric="pearson", classes=[], max_length=16)
_BERT = {
    "vocab_size": 5 + len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def drawn(name: str, seed: int, shape: tuple[int, ...], unit: float) -> NDArray[np.float32]:
    """Whole numbers from -64 to 64 times a power of two."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return (generator.integers(-64, 65, shape) * unit).astype(np.float32)


def fill(model: torch.nn.Module, seed: int = 0, unit: float = 2**-10) -> None:
    """Give a model the weights of the base, and with a seed those of an expert."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape, name = tuple(parameter.shape), name.removeprefix("bert.")
            value = drawn(name, 0, shape, 2**-8)
            if "norm" in name.lower() and name.endswith("weight"):
                value += 1
            if seed:
                value += drawn(name, seed, shape, unit)
            parameter.copy_(torch.from_numpy(value))


def raw_encoder(folder: Path) -> Path:
    """An encoder as published, without a head."""
    model = BertModel(BertConfig(**_BERT))
    fill(model)
    model.save_pretrained(folder)
    _save_words(folder)
    return folder


def raw_classifier(folder: Path, target: Target, seed: int, **config: Any) -> Path:
    """A fine-tuned classifier as published."""
    labels = max(len(target.classes), 1)
    model = BertForSequenceClassification(BertConfig(**_BERT, num_labels=labels, **config))
    fill(model, seed)
    model.save_pretrained(folder)
    _save_words(folder)
    return folder


def encoder(folder: Path) -> Path:
    """The base as the workflow keeps it."""
    import_base(raw_encoder(folder / "raw"), folder / "base", {"source": "test"})
    return folder / "base"


def classifier(folder: Path, base: Path, target: Target, seed: int) -> Path:
    """An expert as the workflow keeps it."""
    raw = raw_classifier(folder / f"raw-{target.task}", target, seed)
    request = FinetuneRequest(target=target, settings=None, seed=0)
    import_expert(raw, base, request, folder / target.task, {"source": "test"})
    return folder / target.task


def llama(
    folder: Path,
    seed: int = 0,
    unit: float = 2**-10,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """A decoder with a tokenizer of words; its next word depends on all words before it."""
    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
    }
    model = LlamaForCausalLM(LlamaConfig(**(settings | config)))
    fill(model, seed, unit)
    model.to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def examples(train: int = 24, validation: int = 8, test: int = 12) -> pd.DataFrame:
    """Texts of three to six words with a label of 0 or 1."""
    rows = []
    splits = ["train"] * train + ["validation"] * validation + ["test"] * test
    for index, split in enumerate(splits):
        words = ["the", WORDS[index % 8], WORDS[8 + index % 2], *WORDS[index % 5 : index % 5 + 3]]
        rows.append((split, " ".join(words[: 3 + index % 4]), None, int(index % 8 < 4)))
    return pd.DataFrame(rows, columns=["split", "text_a", "text_b", "label"])


def of_task(target: Target, table: pd.DataFrame) -> pd.DataFrame:
    """The examples with the labels of a task."""
    index = np.arange(len(table))
    if target.is_regression:
        return table.assign(label=(index * 7 % 16) / 4)
    return table.assign(label=index * 5 // 3 % len(target.classes))


def summary(tensors: Checkpoint | dict[str, Any]) -> dict[str, list[float]]:
    """Of each tensor: sum, a sum with weights, root of the squares' sum, and largest size.

    The gradient of the biases of keys is zero in exact arithmetic, so training moves them at
    random; they are left out.
    """
    found = {}
    for name in sorted(tensors):
        if name.endswith("attention.self.key.bias"):
            continue
        values = np.asarray(tensors[name], dtype=np.float64).ravel()
        weights = np.arange(values.size) * 7919 % 1009 / 1009
        sums = [values.sum(), values @ weights, np.sqrt(values @ values), np.abs(values).max()]
        found[name] = [float(each) for each in sums]
    return found


def of_folder(folder: Path) -> dict[str, list[float]]:
    """The summary of the tensors of a model."""
    return summary(open_checkpoint(folder))


def _save_words(folder: Path) -> None:
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
