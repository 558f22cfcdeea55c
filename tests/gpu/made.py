"""Models and examples of the steps, random and made on the spot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

from mergegrid.study.encoders.importing import import_base, import_expert
from mergegrid.study.schema.encoder_jobs import FinetuneRequest
from mergegrid.study.schema.tasks import Target

TARGET = Target(task="praise", metric="accuracy", classes=[0, 1], max_length=128)

#: Shapes of Llamas by their billions of parameters.
LLAMAS = {
    "3B": (3072, 28, 8192, 24, 8, 32000),
    "1B": (2048, 18, 5632, 16, 8, 32000),
    "0.3B": (1024, 20, 2816, 16, 8, 8192),
    "tiny": (64, 2, 96, 4, 2, 512),
}


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words `w4`, `w5`, ... between `<s>` and `</s>`."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    words = special + [f"w{number}" for number in range(len(special), vocabulary)]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def texts(count: int, longest: int, vocabulary: int, seed: int = 0) -> list[str]:
    """Random words, between an eighth of the longest text and all of it."""
    random = np.random.default_rng(seed)
    lengths = random.integers(longest // 8, longest - 1, count)
    return [" ".join(f"w{word}" for word in random.integers(4, vocabulary, n)) for n in lengths]


def llama(size: str, device: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A Llama with random weights, made on a device."""
    width, layers, inner, heads, key_heads, vocabulary = LLAMAS[size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=1024,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Save a model with a tokenizer of as many words as it has embeddings."""
    model.save_pretrained(folder)
    tokenizer(model.config.vocab_size).save_pretrained(folder)
    return folder


def move(model: PreTrainedModel, seed: int, scale: float = 0.002) -> PreTrainedModel:
    """Move all parameters of a model a little, as fine-tuning would; it stays where it is."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    return model


def decoders(folder: Path, size: str, device: str, dtype: torch.dtype) -> Path:
    """A base and its experts `math` and `code`: `folder/base`, `folder/math`, `folder/code`."""
    model = llama(size, device, dtype)
    save(model, folder / "base")
    for seed, name in enumerate(["math", "code"], start=1):
        save(move(model, seed), folder / name)
    return folder


def merge_file(folder: Path) -> Path:
    """A merge of such a family by DARE and TIES."""
    content = {
        "base": "base",
        "experts": {"math": "math", "code": "code"},
        "sparsifier": {"kind": "dare", "rate": 0.9, "seed": 1},
        "method": {"kind": "ties"},
    }
    path = folder / "merge.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def roberta_config(base: bool, layers: int | None = None, **settings: Any) -> RobertaConfig:
    """RoBERTa-base, or a tiny one."""
    width, depth, vocabulary = (768, 12, 50265) if base else (32, 2, 512)
    return RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers or depth,
        num_attention_heads=width // 64 or 2,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        num_labels=2,
        **settings,
    )


def raw_encoder(folder: Path, config: RobertaConfig) -> Path:
    """An encoder as published, without a head."""
    torch.manual_seed(0)
    return save(RobertaModel(config, add_pooling_layer=False), folder)


def encoders(folder: Path, config: RobertaConfig, experts: tuple[str, ...] = ()) -> Path:
    """A base and ready experts as the workflow keeps them: `folder/base`, `folder/<expert>`."""
    raw = raw_encoder(folder / "raw", config)
    import_base(raw, folder / "base", {"source": "made here"})
    request = FinetuneRequest(target=TARGET, settings=None, seed=0)
    for seed, name in enumerate(experts, start=1):
        model = RobertaForSequenceClassification.from_pretrained(raw, num_labels=2)
        save(move(model, seed), folder / f"raw {name}")
        import_expert(folder / f"raw {name}", folder / "base", request, folder / name, {})
    return folder


def examples(counts: dict[str, int], longest: int, vocabulary: int) -> pd.DataFrame:
    """Random texts of each split with random labels of two classes."""
    splits = [split for split, count in counts.items() for _ in range(count)]
    labels = np.random.default_rng(1).integers(0, 2, len(splits))
    return pd.DataFrame(
        {
            "split": splits,
            "text_a": texts(len(splits), longest, vocabulary),
            "text_b": None,
            "label": labels,
        }
    )


def digests(folder: Path) -> dict[str, str]:
    """Digests of what a published folder holds: its weights, by file or by tensor."""
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = manifest.get("weights", {}).get("tensors", {})
    return {**weights, **{k: v for k, v in manifest["files"].items() if k.endswith("safetensors")}}


def largest_difference(left: dict[str, Any], right: dict[str, Any]) -> float:
    """The largest relative difference of a tensor, by its norm."""
    worst = 0.0
    for name, one in left.items():
        # The gradient of the biases of keys is zero in exact arithmetic, so here it is noise.
        if not name.endswith("key.bias"):
            a, b = np.asarray(one, np.float64), np.asarray(right[name], np.float64)
            worst = max(worst, float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1)))
    return worst
