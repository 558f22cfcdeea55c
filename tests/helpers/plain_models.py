"""Small Llamas as folders of safetensors, written with NumPy alone."""

import json
from pathlib import Path

import numpy as np

WIDTH, HIDDEN, ROWS, LAYERS = 64, 96, 128, 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "vocab_size": ROWS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LINEAR = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (HIDDEN, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}


def shapes(layers=LAYERS):
    """Shapes of the tensors by name."""
    found = {"model.embed_tokens.weight": (ROWS, WIDTH)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        found |= {f"{prefix}.{name}.weight": shape for name, shape in LINEAR.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}.{norm}.weight"] = (WIDTH,)
    return found | {"model.norm.weight": (WIDTH,), "lm_head.weight": (ROWS, WIDTH)}


def normal(seed, scale, layers=LAYERS):
    """Tensors of normal numbers."""
    random = np.random.Generator(np.random.Philox(seed))
    return {
        name: (random.standard_normal(shape) * scale).astype(np.float32)
        for name, shape in shapes(layers).items()
    }


def save(path, tensors, dtype="BF16"):
    """Write a safetensors file of BF16 or F32; bfloat16 is float32 cut after 16 bits."""
    header, parts, start = {}, [], 0
    for name, tensor in tensors.items():
        content = np.ascontiguousarray(tensor, np.float32)
        if dtype == "BF16":
            content = (content.view(np.uint32) >> 16).astype(np.uint16)
        parts.append(content.tobytes())
        end = start + len(parts[-1])
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def save_model(folder, tensors, dtype="BF16", **config):
    """A folder with weights and a config, without a tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save(folder / "model.safetensors", tensors, dtype)
    return folder


def family(folder, base="base", math="math", code="code"):
    """A base and two experts, in `folder`, under the names given."""
    start = normal(0, 0.02)
    save_model(folder / base, start)
    for seed, name in enumerate([math, code], start=1):
        deltas = normal(seed, 0.002)
        save_model(folder / name, {key: start[key] + deltas[key] for key in start})
    return folder


def save_statistics(path, seed, kind):
    """What was gathered of an expert: `fisher` (diagonals) or `gram` (inputs of linear layers)."""
    random = np.random.Generator(np.random.Philox(seed))
    if kind == "fisher":
        found = {name: random.random(shape) for name, shape in shapes().items()}
    else:
        found = {}
        for name, shape in shapes().items():
            if name.startswith("model.layers") and len(shape) == 2:
                inputs = random.standard_normal((2 * shape[1], shape[1]))
                found[name] = inputs.T @ inputs
    save(path, found, "F32")
