"""Tensor names of transformers' architectures: tied embeddings, heads and the prefix of the body.

These are tables, because merging works without torch. A test compares them with the classes'
`_tied_weights_keys` and `base_model_prefix`, and with the defaults of their configs.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from mergegrid.checkpoints.vocabulary import INPUTS

Config = Mapping[str, Any]
"""The contents of a `config.json`."""

_TIED = {
    "model.embed_tokens": (
        "cohere cohere2 ernie4_5 ernie4_5_moe gemma gemma2 gemma3_text jetmoe lfm2 "
        "recurrent_gemma smollm3 starcoder2 vaultgemma xglm zamba zamba2"
    ),
    "model.decoder.embed_tokens": "moonshine opt trocr whisper",
    "transformer.wte": "gpt2 gpt_bigcode gpt_neo mpt",
    "transformer.word_embeddings": "bloom falcon",
    "transformer.tokens_embed": "openai-gpt",
    "transformer.w": "ctrl",
    "transformer.word_embedding": "xlnet",
    "transformer.embeddings": "flaubert xlm",
    "biogpt.embed_tokens": "biogpt",
    "backbone.embeddings": "falcon_mamba mamba",
    "shared": "longt5 mt5 switch_transformers t5 umt5",
    "model.shared": (
        "bart bigbird_pegasus blenderbot blenderbot-small m2m_100 marian mbart mvp "
        "nllb-moe pegasus pegasus_x plbart"
    ),
    "led.shared": "led",
    "bert.embeddings.word_embeddings": "bert bert-generation big_bird megatron-bert",
    "roberta.embeddings.word_embeddings": "camembert roberta xlm-roberta xlm-roberta-xl xmod",
    "deberta.embeddings.word_embeddings": "deberta deberta-v2",
    "distilbert.embeddings.word_embeddings": "distilbert",
    "electra.embeddings.word_embeddings": "electra",
    "albert.embeddings.word_embeddings": "albert",
    "mpnet.embeddings.word_embeddings": "mpnet",
    "ernie.embeddings.word_embeddings": "ernie",
    "esm.embeddings.word_embeddings": "esm",
    "longformer.embeddings.word_embeddings": "longformer",
    "mobilebert.embeddings.word_embeddings": "mobilebert",
    "model.embeddings.tok_embeddings": "modernbert modernbert-decoder",
}
"""Input embeddings of model types that tie their output embeddings by default."""
_UNTIED = {
    "model.embed_tokens": (
        "afmoe apertus arcee bamba bitnet cwm deepseek_v2 deepseek_v3 diffllama dots1 "
        "exaone4 falcon_h1 flex_olmo glm glm4 glm4_moe gpt_oss granite granitemoe "
        "granitemoehybrid granitemoeshared helium hunyuan_v1_dense jamba llama minimax "
        "ministral mistral mixtral nemotron olmo olmo2 olmo3 olmoe persimmon phi phi3 "
        "phimoe qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next seed_oss stablelm"
    ),
    "transformer.wte": "codegen gptj",
    "git.embeddings.word_embeddings": "git",
    "model.decoder.embed_tokens": "moonshine_streaming",
    "gpt_neox.embed_in": "gpt_neox",
    "backbone.embeddings": "mamba2",
    "rwkv.embeddings": "rwkv",
}
"""Input embeddings of model types that tie them only if the config says so."""
EMBEDDING = {
    kind: path
    for table in (_TIED, _UNTIED)
    for path, kinds in table.items()
    for kind in kinds.split()
}
"""The module that output embeddings are tied to, by model type, in a model with a head."""
UNTIED = frozenset(kind for kinds in _UNTIED.values() for kind in kinds.split())
"""Model types that do not tie embeddings if the config lacks `tie_word_embeddings`."""
T5 = frozenset(_TIED["shared"].split())
"""Model types that share their input embeddings whatever the config says.

transformers 5 writes `tie_word_embeddings: true` even if the output has a separate matrix, as in
T5 1.1, and ties that matrix only if it is missing from the file or equal.
"""

HEADS = (
    *("lm_head", "lm_head.decoder", "lm_head.out_proj", "embed_out", "output_projection"),
    *("cls.predictions.decoder", "predictions.decoder", "generator_lm_head", "vocab_projector"),
    *("pred_layer.proj", "lm_loss", "mlm_score.decoder"),
)
"""Output embeddings, which may be tied, at any depth of a model."""
_TOP_HEADS = ("decoder", "head", "output", "proj_out")
"""Output embeddings of ModernBERT, RWKV, GIT and Whisper, at the top level only."""
_BIAS = re.compile(r"(?:^|\.)(?:predictions|lm_head)\.decoder\.bias$")
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")
"""Prefixes that DataParallel, `torch.compile` and PEFT add to all names."""
_LANGUAGE_MODEL = re.compile(r"CausalLM|LMHead|ConditionalGeneration|DoubleHeads|MTModel")
_TASK_HEAD = re.compile(
    r"""([a-z0-9_-]+\.)?(            # At the top level or in the body.
        \w*head\d? | v_head | \w*classifier | \w*predictions | pooler | cls | score | summary
        | sequence_summary | qa_outputs | logits_proj | vocab_transform | vocab_layer_norm
        | vocab_projector | pred_layer | lm_loss | embed_out | output_projection
        | seq_relationship
    )\.""",
    re.VERBOSE,
)
_INPUT_SUFFIXES = tuple(f".{module}.weight" for module in INPUTS)


def text_config(config: Config) -> dict[str, Any]:
    """A config with its `text_config`, the language model of a multimodal model, merged into it."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else dict(config)


def ties_output(config: Config) -> bool | None:
    """Whether output embeddings are tied to the input embeddings; None if unknown."""
    inner = config.get("text_config")
    parts = (config, inner) if isinstance(inner, dict) else (config,)
    for part in parts:
        if isinstance(part.get("tie_word_embeddings"), bool):
            return bool(part["tie_word_embeddings"])
    kinds = [str(part.get("model_type")) for part in parts]
    if kinds[-1] in EMBEDDING and kinds[-1] not in UNTIED:
        return True
    return False if kinds[0] in UNTIED else None


def vocabulary_sizes(config: Config) -> set[int]:
    """Vocabulary sizes (tokens or entities) in a config and its nested configs."""
    sizes = {
        value
        for key, value in config.items()
        if key.endswith("vocab_size") and "type" not in key and isinstance(value, int)
    }
    nested = [value for value in config.values() if isinstance(value, dict)]
    return sizes.union(*map(vocabulary_sizes, nested))


def unties_all(config: Config) -> bool:
    """Whether a config states that no embeddings are tied, in encoder and decoder too."""
    inner = [config.get(part) for part in ("encoder", "decoder")]
    return ties_output(config) is False and not any(
        ties_output(part) is True for part in inner if isinstance(part, dict)
    )


def tied_names(names: Collection[str], config: Config) -> tuple[str | None, list[str]]:
    """The name of the input embedding, and those of `names` that the architecture ties to it.

    The first of them stands in for the embedding if that is not among `names`.
    """
    canonical = _embedding(names, config)
    if canonical is None:
        return None, []
    shared: list[str] = []
    if canonical.endswith("shared.weight"):
        root = canonical.removesuffix("shared.weight")
        shared = [f"{root}{part}.embed_tokens.weight" for part in ("encoder", "decoder")]
    heads = [name for name in sorted(names) if is_output(name)]
    return canonical, [name for name in [*shared, *heads] if name in names and name != canonical]


def is_output(name: str) -> bool:
    """Whether a tensor is an output embedding, with a row of weights per token."""
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and (
        module in _TOP_HEADS or any(f".{module}".endswith(f".{head}") for head in HEADS)
    )


def tied_biases(names: Collection[str]) -> dict[str, str]:
    """Decoder biases of masked language models, with the head bias that each equals."""
    return {
        name: name.removesuffix("decoder.bias") + "bias" for name in names if _BIAS.search(name)
    }


def _embedding(names: Collection[str], config: Config) -> str | None:
    """The name of the input embedding, whether or not it is among `names`; None if unknown."""
    kind = str(config.get("model_type"))
    path = EMBEDDING.get(kind, "")
    if not path.endswith("shared"):
        inputs = [name for name in names if f".{name}".endswith(_INPUT_SUFFIXES)]
        shared = [name for name in inputs if f".{name}".endswith(".shared.weight")]
        for candidates in (shared, inputs):
            if len(candidates) == 1 and f"{path}.weight" not in names:
                return candidates[0]
        if not path:
            return None
    else:
        # BART's decoder alone, and Marian with separate vocabularies, have no shared embedding.
        decoder_only = not any("encoder." in name for name in names)
        separate = kind == "marian" and config.get("share_encoder_decoder_embeddings") is False
        if decoder_only or separate:
            path = path.removesuffix("shared") + "decoder.embed_tokens"
    body, _, rest = path.partition(".")
    no_prefix = rest and not any(name.startswith(f"{body}.") for name in names)
    return f"{rest if no_prefix else path}.weight"


def wrapper(names: Collection[str]) -> str:
    """The prefix that a wrapper added to all names, or an empty string."""
    return next((w for w in _WRAPPERS if all(name.startswith(w) for name in names)), "")


def missing_prefix(names: Collection[str], config: Config) -> str:
    """The prefix of the body that the class in the config uses and the names lack.

    GPT-2 was published as `h.0.ln_1.weight`; its class with a head uses `transformer.h.0...`.
    """
    path = EMBEDDING.get(str(config.get("model_type")), "")
    body, _, rest = path.partition(".")
    if not rest or not _has_head(config) or any(name.startswith(f"{body}.") for name in names):
        return ""
    return f"{body}." if f"{rest}.weight" in names else ""


def _has_head(config: Config) -> bool:
    name = _class(config)
    return bool(name) and (not name.endswith("Model") or bool(_LANGUAGE_MODEL.search(name)))


def _class(config: Config) -> str:
    """The first class that a config names, or an empty string."""
    return str(next(iter(config.get("architectures") or []), ""))


def is_task_head(name: str, config: Config) -> bool:
    """Whether a tensor belongs to a task head rather than to the model.

    The output embedding of a language model is part of the model.
    """
    if not _TASK_HEAD.match(name) and not (is_output(name) or name == "decoder.bias"):
        return False
    is_language_model = not _class(config) or _LANGUAGE_MODEL.search(_class(config))
    return not (is_language_model and is_output(name))


def is_constant(name: str, config: Config) -> bool:
    """Whether transformers recomputes a tensor that is missing from a file."""
    kind = config.get("model_type")
    if name == "final_logits_bias":
        return kind != "marian"
    return kind in ("marian", "pegasus") and name.endswith("embed_positions.weight")
