"""LoRA adapters made and merged by PEFT, of every kind that is read, for tiny real models.

`python tests/helpers/adapters.py` writes the table of `docs/adapters.md`.
"""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
)

from mergegrid import merge, open_model

BEGIN, END = "<!-- begin: adapters -->", "<!-- end: adapters -->"
WIDTH, LAYERS, TOKENS = 32, 2, 48
_LLAMA = {
    "vocab_size": TOKENS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**_LLAMA | changes))


def gpt2():
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(vocab_size=TOKENS, **sizes))


def olmoe():
    return OlmoeForCausalLM(OlmoeConfig(**_LLAMA, num_experts=4, num_experts_per_tok=2))


def mixtral():
    return MixtralForCausalLM(MixtralConfig(**_LLAMA, num_local_experts=4))


def biased_llama():
    return llama(attention_bias=True, mlp_bias=True)


def tied_llama():
    return llama(tie_word_embeddings=True)


@dataclass(frozen=True)
class Variant:
    """A kind of adapter: the model, and the settings of PEFT."""

    settings: dict
    make: object = llama


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_CONV1D = ["c_attn", "c_proj", "c_fc"]
_FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
VARIANTS = {
    "plain": Variant({"target_modules": LINEAR}),
    "rslora": Variant({"target_modules": LINEAR, "use_rslora": True, "r": 4}),
    "rank and alpha patterns": Variant(
        {
            "target_modules": LINEAR,
            "rank_pattern": {"^model.layers.0.self_attn.q_proj": 2, "q_proj": 8, "mlp.*": 16},
            "alpha_pattern": {"layers.1.*_proj": 32, "up_proj": 4},
        }
    ),
    "layers_to_transform": Variant({"target_modules": LINEAR, "layers_to_transform": [1]}),
    "target_modules as a pattern": Variant({"target_modules": r".*\.(q|v)_proj"}),
    "init gaussian": Variant({"target_modules": LINEAR, "init_lora_weights": "gaussian"}),
    "Conv1D": Variant({"target_modules": _CONV1D, "fan_in_fan_out": True}, gpt2),
    "Conv1D, wrong fan_in_fan_out": Variant({"target_modules": _CONV1D}, gpt2),
    "bias: all": Variant({"target_modules": ["q_proj"], "bias": "all"}, biased_llama),
    "bias: lora_only": Variant({"target_modules": ["q_proj"], "bias": "lora_only"}, biased_llama),
    "bias: all, Conv1D": Variant({"target_modules": _CONV1D, "bias": "all"}, gpt2),
    "lora_bias": Variant({"target_modules": ["q_proj", "o_proj"], "lora_bias": True}, biased_llama),
    "DoRA": Variant({"target_modules": LINEAR, "use_dora": True}),
    "DoRA, Conv1D": Variant({"target_modules": _CONV1D, "use_dora": True}, gpt2),
    "DoRA, embedding": Variant({"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "modules_to_save": Variant({"target_modules": LINEAR, "modules_to_save": ["lm_head", "norm"]}),
    "embedding": Variant({"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding and head": Variant({"target_modules": ["embed_tokens", "lm_head"]}),
    "trainable tokens": Variant({"target_modules": LINEAR, "trainable_token_indices": [3, 7, 11]}),
    "trainable tokens by module": Variant(
        {"target_modules": LINEAR, "trainable_token_indices": {"embed_tokens": [1, 40]}}
    ),
    "trainable tokens, tied": Variant(
        {"target_modules": LINEAR, "trainable_token_indices": [3, 7, 11]}, tied_llama
    ),
    "fused experts": Variant({"target_modules": [], "target_parameters": _FUSED}, olmoe),
    "fused experts and attention": Variant(
        {"target_modules": ["q_proj"], "target_parameters": _FUSED[1:]}, olmoe
    ),
    "fused experts of Mixtral": Variant(
        {"target_modules": [], "target_parameters": _FUSED}, mixtral
    ),
    "all-linear": Variant({"target_modules": "all-linear"}),
}


def model(variant, exact=False):
    """A base with normal weights; with `exact`, multiples of 1/64 below 2."""
    torch.manual_seed(0)
    base = variant.make().float().eval()
    if exact:
        _round(base.parameters())
    return base


def adapt(base, settings, exact=False, seed=1):
    """An adapter of a copy of a base, with random parameters; with `exact`, of few bits."""
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0} | settings
    torch.manual_seed(seed)
    adapted = get_peft_model(copy.deepcopy(base), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not parameter.requires_grad:
                continue
            if "magnitude" in name:
                parameter *= 2 if exact else 1.1
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "lora_" in name:
                parameter.copy_(0.05 * noise)
            else:
                parameter += 0.01 * noise
            if exact:
                _round([parameter])
    return adapted.eval()


def _round(parameters):
    """Round to multiples of 1/64, with a few values of either sign; sums of products are exact."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_((parameter * 64).round().clamp(-64, 64) / 64)


def save_all(variant, folder, exact=False):
    """Save base, adapter and PEFT's merged model below a folder; returns the merged state dict."""
    base = model(variant, exact)
    base.save_pretrained(folder / "base")
    adapted = adapt(base, variant.settings, exact)
    adapted.save_pretrained(folder / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    return merged.state_dict()


def difference(variant, folder, exact):
    """Largest difference between a merge of one adapter and PEFT's merged model, in float32."""
    save_all(variant, folder, exact)
    ours = merge(folder / "base", {"math": folder / "adapter"})
    theirs = open_model(folder / "merged")
    assert set(ours) == set(theirs)
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def table():
    """The table of the docs: every variant, its settings and the two differences."""
    lines = [
        "| adapter | model | settings | numbers of few bits | random numbers |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, variant in VARIANTS.items():
        shown = [f"{key}: {value}" for key, value in variant.settings.items() if value != LINEAR]
        settings = f"`{', '.join(shown)}`".replace("|", "\\|") if shown else "all linear layers"
        cells = []
        for exact in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                cells.append(f"{difference(variant, Path(folder), exact):.2g}")
        model = variant.make().config.model_type
        lines.append(f"| {name} | {model} | {settings} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = Path(__file__).parents[2] / "docs" / "adapters.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")
