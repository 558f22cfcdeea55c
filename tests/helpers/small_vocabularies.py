"""Small decoders with real BPE tokenizers, whose embedding rows are known by token."""

import json

import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

LETTERS = "abcdefgh "
MERGES = [("a", "b"), ("c", "d"), ("e", "f")]
SPECIAL = ["<unk>", "<s>", "</s>"]
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHAT = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def bpe(added=(), merges=MERGES, letters=LETTERS, special=SPECIAL, template=None, **named):
    """A tokenizer with 15 tokens and those added."""
    words = [*special, *letters, *("".join(pair) for pair in merges)]
    plain = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, list(merges), unk_token="<unk>")
    )
    plain.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    plain.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.add_tokens(list(added), special_tokens=True)
    fast.add_special_tokens(named)
    fast.chat_template = template
    return fast


def decoder(
    folder, tokenizer, rows=None, seed=0, base=None, tied=False, stops=None, spread=0.02, width=16
):
    """Save a decoder, its rows near those of the same tokens of a base.

    Args:
        folder: where to save it.
        tokenizer: its tokenizer.
        rows: rows of its embeddings, by default one per token.
        seed: of its weights.
        base: folder of a base with at least some of its tokens.
        tied: whether input and output embeddings are one matrix.
        stops: ids that stop a generation.
        spread: standard deviation of its weights.
        width: elements of a row.
    """
    rows = rows or len(tokenizer)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=spread,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    if base is not None:
        _move_near(model, base, tokenizer)
    if stops:
        model.generation_config = GenerationConfig(eos_token_id=stops)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _move_near(model, base, tokenizer):
    """Weights of a base plus small noise; rows without a token of it stay random."""
    known = AutoTokenizer.from_pretrained(base).get_vocab()
    weights = load_file(base / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            start = torch.from_numpy(weights[name])
            if name in (EMBEDDINGS, HEAD):
                for token, number in tokenizer.get_vocab().items():
                    if token in known and known[token] < len(start):
                        parameter[number] = start[known[token]] + parameter[number] / 10
            else:
                parameter.copy_(start + parameter / 10)


def rows_by_token(folder, name=EMBEDDINGS):
    """The rows of a matrix by token, by the tokenizer that transformers loads."""
    weights = load_file(folder / "model.safetensors")[name].astype(np.float32)
    tokens = AutoTokenizer.from_pretrained(folder).get_vocab()
    return {token: weights[number] for token, number in tokens.items() if number < len(weights)}


def config_of(folder, file="config.json"):
    return json.loads((folder / file).read_text())


def change_json(path, **values):
    """Change keys of a JSON file; None removes one."""
    content = (json.loads(path.read_text()) if path.is_file() else {}) | values
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content))


def sentencepiece_model(pieces):
    """A sentencepiece model as its protocol buffer: pieces with scores and types, and a trainer."""

    def field(number, payload):
        return bytes([number << 3 | 2, len(payload)]) + payload

    content = b"".join(
        field(1, field(1, piece.encode()) + b"\x15" + np.float32(-i).tobytes() + b"\x18\x01")
        for i, piece in enumerate(pieces)
    )
    return content + field(2, b"\x18\x02")
