"""Small real models: Llamas of two layers with a tokenizer, made and saved by transformers."""

import copy
import json

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["the", "a", "good", "bad", "film", "book", "is", "was", "one", "two", "three", "four"]
VOCABULARY = 64


def tokenizer(extra=()):
    words = ["<unk>", "<s>", "</s>", *WORDS]
    words += [f"w{number}" for number in range(len(words), VOCABULARY)]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = "{{ messages[0].content }}"
    fast.add_tokens(list(extra))
    return fast


def llama(tied=False, vocabulary=VOCABULARY, **config):
    torch.manual_seed(0)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | config))).to(torch.bfloat16)


def finetuned(model, seed, rows=0):
    """A copy whose parameters were moved a little; `rows` more of embeddings."""
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in moved.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.002
            parameter += noise.to(parameter.dtype)
    if rows:
        torch.manual_seed(seed)
        moved.resize_token_embeddings(VOCABULARY + rows, mean_resizing=False)
    return moved


def save(model, folder, files="safetensors", extra=(), **options):
    """Save a model with its tokenizer, as safetensors or as `pytorch_model.bin`."""
    model.save_pretrained(folder, **options)
    if files == "bin":
        for path in folder.glob("model*.safetensors*"):
            path.unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    tokenizer(extra).save_pretrained(folder)
    return folder


def family(folder, tied=False, **files):
    """A base and its experts `math` and `code`: `folder/base`, `folder/math`, `folder/code`."""
    base = llama(tied)
    save(base, folder / "base", **files)
    for seed, name in enumerate(["math", "code"], start=1):
        save(finetuned(base, seed), folder / name, **files)
    return folder


def recipe(folder, name="merge.yaml", **changes):
    """Write a merge file for such a family: DARE 0.9, half of the summed deltas."""
    content = {
        "base": "base",
        "experts": {"math": "math", "code": "code"},
        "sparsifier": {"kind": "dare", "rate": 0.9, "seed": 1},
        "method": {"kind": "task_arithmetic", "coefficient": 0.5},
    }
    content |= changes
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())
