"""Configurations of mergekit in use, by facts of model cards and of mergekit's `examples/`.

The models are tiny ones here: `base`, and `a` to `e` fine-tuned from it. `expected` is how close
the merged model is to mergekit's if both compute in float32, or the error of a file that mergegrid
refuses. Numbers (1) to (17) are the configurations that `docs/mergekit.md` explains.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plain_models
import yaml

EXPERTS = "abcdef"
LAYERS = 5
ROWS = plain_models.ROWS


@dataclass(frozen=True)
class Case:
    """A configuration, and what mergegrid makes of it."""

    name: str
    config: str
    expected: str
    """A key of `LIMITS`; else a part of the error."""
    ignore_unused: bool = False

    @property
    def refused(self):
        """Whether the expectation is an error."""
        return self.expected not in LIMITS


#: By expectation: a difference, as a share of the largest parameter of a tensor, and how many
#: elements of a tensor may differ by more. None: only the length of the merged delta is compared.
LIMITS = {
    # Sums of float32 in another order.
    "rounding": (3e-7, 0),
    # Of n deltas, int(density n) are kept instead of n - round((1 - density) n).
    "selection": (3e-7, 12),
    # slerp: the line instead of the circle for nearly parallel tensors.
    "line": (1.3e-4, 0),
    # karcher: iterated until steps are below 1e-10 instead of 1e-5.
    "steps": (2e-5, 0),
    # Random masks.
    "masks": None,
    "masks of della": None,
}
LENGTHS = {"masks": 0.03, "masks of della": 0.15}
"""How far the length of the merged delta may be from mergekit's, as a share of it: DARE divides by
the density, and mergekit by nearly the same; DELLA divides by the probability of each element."""


def models(folder):
    """Base and experts in float32, of five layers; `f` has a token more than the others."""
    start = plain_models.normal(0, 0.02, LAYERS)
    settings = {"num_hidden_layers": LAYERS, "torch_dtype": "float32"}
    plain_models.save_model(folder / "base", start, "F32", **settings)
    # A part that all deltas share: model_stock differs where the mean cosine is negative.
    shared = plain_models.normal(9, 0.001, LAYERS)
    for seed, name in enumerate(EXPERTS, start=1):
        deltas = plain_models.normal(seed, 0.002, LAYERS)
        tensors = {key: start[key] + shared[key] + deltas[key] for key in start}
        if name == "f":
            settings["vocab_size"] = ROWS + 1
            for key in ("model.embed_tokens.weight", "lm_head.weight"):
                tensors[key] = np.concatenate([tensors[key], tensors[key][:1] + 1])
        plain_models.save_model(folder / name, tensors, "F32", **settings)
    for name in ("base", *EXPERTS):
        save_tokenizer(folder / name, ["<|end|>"] if name == "f" else [])
    return folder


def save_tokenizer(folder, added):
    """A tokenizer of words, with a token for every row of embeddings."""
    words = ["<unk>", *(f"w{number}" for number in range(1, ROWS))]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokens = [("<unk>", 0), *((token, ROWS + place) for place, token in enumerate(added))]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": True, **special} for token, number in tokens
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def at_float32(config, folder):
    """A configuration of mergekit with folders for models, that computes in float32."""
    text = json.dumps(yaml.safe_load(config))
    for name in ("base", *EXPERTS):
        text = text.replace(json.dumps(name), json.dumps(str(folder / name)))
    content = json.loads(text) | {"dtype": "float32"}
    content.pop("out_dtype", None)
    # `tokenizer_source: base` is a word of mergekit, not the model.
    if "tokenizer_source" in content:
        content["tokenizer_source"] = yaml.safe_load(config)["tokenizer_source"]
    return content


def run_mergekit(python, jobs):
    """Merge with mergekit: errors, or None, of configurations by output folder."""
    lines = [json.dumps({"config": config, "out": str(out)}) for out, config in jobs.items()]
    done = subprocess.run(
        [python, Path(__file__).with_name("run_mergekit.py")],
        input="\n".join(lines),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=600,
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
    )
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
    assert len(errors) == len(jobs), done.stdout
    return dict(zip(jobs, errors, strict=True))


@dataclass(frozen=True)
class Comparison:
    """How two models differ, with the largest parameter of each tensor as the unit."""

    equal_bits: float
    """Share of elements with equal bits."""
    largest: float
    """Largest difference."""
    beyond: int
    """Elements of a tensor that differ by more than a limit, at most."""


def compare(ours, theirs, limit):
    """Compare two sets of float32 tensors by name."""
    assert ours.keys() == theirs.keys()
    differences = []
    for name, mine in ours.items():
        other = np.asarray(theirs[name], np.float32)
        differences.append(np.abs(np.asarray(mine) - other).ravel() / np.abs(other).max())
    joined = np.concatenate(differences)
    beyond = max(int((values > limit).sum()) for values in differences)
    return Comparison(float((joined == 0).mean()), float(joined.max()), beyond)


def length_ratio(ours, theirs, base):
    """The length of a merged model's delta, over all tensors, as a multiple of another's."""
    lengths = [
        sum(float(((np.asarray(model[name]) - base[name]) ** 2).sum()) for name in base)
        for model in (ours, theirs)
    ]
    return float(np.sqrt(lengths[0] / lengths[1]))


CASES = [
    Case(
        "(1) linear, three models, no base; examples/linear.yml",
        """
        models:
          - {model: a, parameters: {weight: 1.0}}
          - {model: b, parameters: {weight: 0.3}}
          - {model: c, parameters: {weight: 0.5}}
        merge_method: linear
        dtype: float16
        """,
        "rounding",
    ),
    Case(
        "(2) linear, five checkpoints with weights 1 to 5, the last is the base",
        """
        models:
          - {model: a, parameters: {weight: 1}}
          - {model: b, parameters: {weight: 2}}
          - {model: c, parameters: {weight: 3}}
          - {model: d, parameters: {weight: 4}}
          - {model: e, parameters: {weight: 5}}
        base_model: e
        merge_method: linear
        dtype: float32
        out_dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "(3) slerp, t 0.5",
        """
        models: [{model: a}, {model: b}]
        base_model: a
        merge_method: slerp
        parameters: {t: 0.5}
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "(4) slerp, t by layer and module; examples/gradient-slerp.yml, LazyMergekit",
        """
        slices:
          - sources:
              - {model: a, layer_range: [0, 5]}
              - {model: b, layer_range: [0, 5]}
        merge_method: slerp
        base_model: a
        parameters:
          t:
            - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
            - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
            - value: 0.5
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "(5) ties, density 0.5, weights 0.5 and 0.3, normalize",
        """
        models:
          - model: base
          - {model: a, parameters: {density: 0.5, weight: 0.5}}
          - {model: b, parameters: {density: 0.5, weight: 0.3}}
        merge_method: ties
        base_model: base
        parameters: {normalize: true, int8_mask: true}
        dtype: float16
        """,
        "rounding",
    ),
    Case(
        "(6) ties, density and weight by layer and module; examples/ties.yml",
        """
        models:
          - {model: a, parameters: {density: [1, 0.7, 0.1], weight: 1.0}}
          - {model: b, parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}}
          - model: c
            parameters:
              density: 0.33
              weight:
                - {filter: mlp, value: 0.5}
                - value: 0
        merge_method: ties
        base_model: base
        parameters: {normalize: true, int8_mask: true}
        dtype: float16
        """,
        "rounding",
    ),
    Case(
        "(7) ties, sum instead of mean; examples/bio-merge.yml",
        """
        models:
          - {model: a, parameters: {density: 0.5, weight: 0.5}}
          - {model: b, parameters: {density: 0.5, weight: 0.5}}
        merge_method: ties
        base_model: base
        parameters: {normalize: false, int8_mask: true}
        dtype: float16
        """,
        "rounding",
    ),
    Case(
        "(8) dare_ties, density 0.53, weights 0.4, 0.3, 0.3",
        """
        models:
          - model: base
          - {model: a, parameters: {density: 0.53, weight: 0.4}}
          - {model: b, parameters: {density: 0.53, weight: 0.3}}
          - {model: c, parameters: {density: 0.53, weight: 0.3}}
        merge_method: dare_ties
        base_model: base
        parameters: {int8_mask: true}
        dtype: bfloat16
        """,
        "masks",
    ),
    Case(
        "(9) dare_ties, four models, weight 0.2, no density",
        """
        models:
          - {model: a, parameters: {weight: 0.2}}
          - {model: b, parameters: {weight: 0.2}}
          - {model: c, parameters: {weight: 0.2}}
          - {model: d, parameters: {weight: 0.2}}
        merge_method: dare_ties
        base_model: base
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "(10) task_arithmetic, 1.0 and 0.25 (chat vector)",
        """
        models:
          - {model: a, parameters: {weight: 1.0}}
          - {model: b, parameters: {weight: 0.25}}
        merge_method: task_arithmetic
        base_model: base
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "(11) model_stock, weights without effect",
        """
        models:
          - model: base
          - {model: a, parameters: {weight: [{filter: mlp, value: 0.5}, {value: 1}]}}
          - model: b
          - model: c
        merge_method: model_stock
        base_model: base
        dtype: bfloat16
        """,
        "rounding",
        ignore_unused=True,
    ),
    Case(
        "(12) breadcrumbs, density 0.9, gamma 0.01, lambda 0.5",
        """
        models:
          - {model: a, parameters: {weight: 0.5}}
          - {model: b, parameters: {weight: 0.3}}
          - {model: c, parameters: {weight: 0.5}}
          - {model: d, parameters: {weight: 0.7}}
        merge_method: breadcrumbs
        base_model: base
        parameters: {density: 0.9, gamma: 0.01, lambda: 0.5}
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "(13) della_linear, epsilon by model, normalize, union",
        """
        models:
          - {model: a, parameters: {weight: 0.5, density: 0.5, epsilon: 0.4}}
          - {model: b, parameters: {weight: 0.5, density: 0.4, epsilon: 0.3}}
        merge_method: della_linear
        base_model: base
        parameters: {normalize: true, lambda: 0.9}
        tokenizer_source: union
        dtype: bfloat16
        """,
        "masks of della",
    ),
    Case(
        "(14) sce, select_topk 0.5",
        """
        models: [{model: a}, {model: b}, {model: c}]
        merge_method: sce
        base_model: base
        parameters: {select_topk: 0.5}
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "(15) passthrough, layers of two models; examples/orcamini-platy-44layer.yml",
        """
        slices:
          - sources: [{model: a, layer_range: [0, 4]}]
          - sources: [{model: b, layer_range: [2, 5]}]
        merge_method: passthrough
        dtype: float16
        """,
        "rounding",
    ),
    Case(
        "(16) mixture of experts",
        """
        base_model: base
        gate_mode: hidden
        experts:
          - {source_model: a, positive_prompts: [code]}
          - {source_model: b, positive_prompts: [math]}
        dtype: bfloat16
        """,
        "this is a mixture of experts",
    ),
    Case(
        "(17) tokenizer with union and tokens, chat_template chatml",
        """
        models:
          - {model: a, parameters: {weight: 0.5}}
          - {model: b, parameters: {weight: 0.5}}
        merge_method: linear
        base_model: a
        tokenizer: {source: union, tokens: {<|im_start|>: {source: a, force: true}}}
        chat_template: chatml
        dtype: bfloat16
        """,
        "no templates of its own",
    ),
    Case(
        "(17) without chat_template",
        """
        models:
          - {model: a, parameters: {weight: 0.5}}
          - {model: f, parameters: {weight: 0.5}}
        merge_method: linear
        base_model: a
        tokenizer:
          source: union
          tokens: {<|start|>: {source: {kind: model_token, model: a, token_id: 3}}}
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "several documents; examples/mega.yml",
        """
        slices:
          - sources:
              - {model: a, layer_range: [0, 5]}
              - {model: b, layer_range: [0, 5]}
        merge_method: slerp
        base_model: a
        parameters: {t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {value: 0.5}]}
        name: gradient-slerp
        ---
        models:
          - {model: gradient-slerp, parameters: {density: [1, 0.7, 0.1], weight: 1.0}}
          - {model: c, parameters: {density: 0.33, weight: [{filter: mlp, value: 0.5}, {value: 0}]}}
        merge_method: ties
        base_model: base
        dtype: float16
        """,
        "a second YAML document, as for mergekit-multi",
    ),
    Case(
        "task_arithmetic, union, a token by force",
        """
        models:
          - {model: a, parameters: {weight: 0.5}}
          - {model: f, parameters: {weight: 0.7}}
        merge_method: task_arithmetic
        base_model: base
        tokenizer: {source: union, tokens: {w5: {source: f, force: true}}}
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "the tokenizer of a model",
        """
        models: [{model: a}, {model: b}, {model: c}]
        merge_method: model_stock
        base_model: base
        tokenizer: {source: b, pad_to_multiple_of: 3}
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "nuslerp with a base",
        """
        models:
          - {model: a, parameters: {weight: 3}}
          - {model: b, parameters: {weight: 1}}
        merge_method: nuslerp
        base_model: base
        dtype: bfloat16
        """,
        "rounding",
    ),
    Case(
        "slices of some layers, merged and passed",
        """
        slices:
          - sources:
              - {model: base, layer_range: [1, 4]}
              - {model: a, layer_range: [2, 5]}
              - {model: b, layer_range: [0, 3]}
          - sources: [{model: base, layer_range: [0, 2]}]
        merge_method: task_arithmetic
        base_model: base
        parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.8}]}
        dtype: float16
        """,
        "rounding",
    ),
    Case(
        "one slice of some layers, slerp with a gradient",
        """
        slices:
          - sources: [{model: a, layer_range: [1, 5]}, {model: b, layer_range: [0, 4]}]
        merge_method: slerp
        base_model: a
        parameters: {t: [0.1, 0.9]}
        dtype: float16
        """,
        "rounding",
    ),
    Case(
        "ties, equal weights",
        """
        models:
          - {model: a, parameters: {density: 0.2, weight: 1}}
          - {model: b, parameters: {density: 0.4, weight: 1}}
        merge_method: ties
        base_model: base
        dtype: float32
        """,
        "rounding",
    ),
    Case(
        "dare_linear, density 1",
        """
        models: [{model: a}, {model: b}]
        merge_method: dare_linear
        base_model: base
        parameters: {weight: 0.4}
        dtype: float32
        """,
        "rounding",
    ),
    Case(
        "task_arithmetic, normalized, lambda 0.7",
        """
        models:
          - {model: a, parameters: {weight: 0.3}}
          - {model: b, parameters: {weight: 0.9}}
        merge_method: task_arithmetic
        base_model: base
        parameters: {normalize: true, lambda: 0.7}
        dtype: float32
        """,
        "rounding",
    ),
    Case(
        "nuslerp",
        """
        models:
          - {model: a, parameters: {weight: 3}}
          - {model: b, parameters: {weight: 1}}
        merge_method: nuslerp
        dtype: float32
        """,
        "rounding",
    ),
    Case(
        "multislerp of deltas",
        """
        models:
          - {model: a, parameters: {weight: 3}}
          - {model: b, parameters: {weight: 1}}
          - {model: c, parameters: {weight: 2}}
        merge_method: multislerp
        base_model: base
        dtype: float32
        """,
        "rounding",
    ),
    Case(
        "karcher",
        """
        models: [{model: a}, {model: b}, {model: c}]
        merge_method: karcher
        dtype: float32
        """,
        "steps",
    ),
    Case(
        "ram",
        """
        models: [{model: a}, {model: b}, {model: c}]
        merge_method: ram
        base_model: base
        parameters: {epsilon: 0.001}
        dtype: float32
        """,
        "rounding",
    ),
    Case(
        "parameters by scope, filter and layer",
        """
        merge_method: task_arithmetic
        base_model: base
        parameters: {weight: 0.1, lambda: [1, 0.5]}
        modules:
          default:
            parameters: {weight: [{filter: v_proj, value: [0.2, 0.6]}]}
            slices:
              - parameters: {weight: [{filter: layers.1., value: 0.3}, {filter: norm, value: 0}]}
                sources:
                  - {model: base, layer_range: [0, 5]}
                  - model: a
                    layer_range: [0, 5]
                    parameters:
                      weight:
                        - {filter: mlp, value: [0, 1, 0.5]}
                        - {filter: embed, value: [0.7, 0.9]}
                  - {model: b, layer_range: [0, 5]}
        dtype: float32
        """,
        "rounding",
    ),
]
