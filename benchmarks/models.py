"""Create random models to merge: a base and experts in the shape of a Llama, in bfloat16.

A separate program, because the process that measures must stay small (see measure.py).
"""

import argparse
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cases import EXPERTS
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MARKER = "complete.json"
INDEX = "model.safetensors.index.json"
SHARDS = 2
NAMES = (*EXPERTS, "law", "chat")
DELTAS = dict(zip(NAMES, (0.0005, 0.001, 0.0007, 0.0014), strict=True))
"""Standard deviation of each expert's deltas."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the defaults are TinyLlama-1.1B's."""

    layers: int = 22
    hidden: int = 2048
    intermediate: int = 5632
    heads: int = 32
    key_value_heads: int = 4
    vocabulary: int = 32000
    seed: int = 1


def make_models(folder: Path, shape: Shape, experts: int = len(EXPERTS)) -> None:
    """Write `base` and as many experts, the first `math` and `code`, below a folder.

    Models that exist are kept.
    """
    marker, names = folder / MARKER, ("base", *NAMES[:experts])
    if not marker.is_file() or json.loads(marker.read_text()) != asdict(shape):
        shutil.rmtree(folder, ignore_errors=True)
    config = _config(shape)
    with torch.device("meta"):
        state = LlamaForCausalLM(config).state_dict()
    tensors = {name: tuple(tensor.shape) for name, tensor in state.items()}
    files = _shards(tensors)
    for number, name in enumerate(names):
        model = folder / name
        if marker.is_file() and (model / INDEX).is_file():
            continue
        shutil.rmtree(model, ignore_errors=True)
        model.mkdir(parents=True)
        config.save_pretrained(model)
        GenerationConfig(bos_token_id=1, eos_token_id=2).save_pretrained(model)
        _tokenizer().save_pretrained(model)
        generator = torch.Generator().manual_seed(shape.seed * 1000 + number)
        for file, members in files.items():
            if name == "base":
                values = _base(members, generator)
            else:
                values = _expert(members, folder / "base" / file, DELTAS[name], generator)
            _write(model / file, members, values)
        _write_index(model, files)
    marker.write_text(
        json.dumps(asdict(shape))
    )  # Last, so its existence means that all models are complete.


def _config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer: one token per byte and three special tokens."""
    special = ["<unk>", "<s>", "</s>"]
    tokens = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


Shapes = dict[str, tuple[int, ...]]


def _shards(tensors: Shapes) -> dict[str, Shapes]:
    """Distribute the tensors, in their order, over files of about equal size."""
    files: list[Shapes] = [{} for _ in range(SHARDS)]
    total = sum(map(_size, tensors.values()))
    before = 0
    for name, shape in tensors.items():
        files[before * SHARDS // total][name] = shape
        before += _size(shape)
    return {f"model-{i:05d}-of-{SHARDS:05d}.safetensors": file for i, file in enumerate(files, 1)}


def _size(shape: tuple[int, ...]) -> int:
    return 2 * torch.Size(shape).numel()


def _base(members: Shapes, generator: torch.Generator) -> Iterator[torch.Tensor]:
    for name, shape in members.items():
        mean = 1.0 if "norm" in name else 0.0
        yield torch.empty(shape).normal_(mean, 0.02, generator=generator).bfloat16()


def _expert(
    members: Shapes, base: Path, deviation: float, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    with safe_open(base, framework="pt") as file:
        for name, shape in members.items():
            delta = torch.empty(shape).normal_(0.0, deviation, generator=generator)
            yield (file.get_tensor(name).float() + delta).bfloat16()


def _write(path: Path, members: Shapes, values: Iterator[torch.Tensor]) -> None:
    """Write one safetensors file, tensor by tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in members.items():
        start, end = end, end + _size(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in values:
            file.write(tensor.view(torch.uint16).numpy().data)


def _write_index(model: Path, files: dict[str, Shapes]) -> None:
    weight_map = {name: file for file, members in files.items() for name in members}
    total = sum(_size(shape) for members in files.values() for shape in members.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (model / INDEX).write_text(json.dumps(index, indent=2))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the models to create or reuse")
    parser.add_argument(
        "shape", type=json.loads, help="sizes that differ from the defaults, as JSON"
    )
    parser.add_argument("--experts", type=int, choices=range(5), default=len(EXPERTS))
    arguments = parser.parse_args()
    make_models(arguments.folder, Shape(**arguments.shape), arguments.experts)


if __name__ == "__main__":
    main()
