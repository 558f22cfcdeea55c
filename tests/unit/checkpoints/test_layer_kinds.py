"""The kinds of layers, compared with the classes of the installed transformers."""

import pytest
import torch
from transformers import AutoConfig
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

from mergegrid.checkpoints.architectures import is_output, is_task_head
from mergegrid.checkpoints.layer_kinds import LayerKind, layer_kind

KINDS = {
    "afmoe", "albert", "apertus", "bart", "bert", "bloom", "camembert", "codegen", "cohere2",
    "ctrl", "deberta-v2", "deepseek_v3", "distilbert", "electra", "falcon", "gemma", "gemma2",
    "gemma3_text", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj",
    "granitemoe", "llama", "mamba", "marian", "mistral", "mixtral", "modernbert", "mpnet", "mpt",
    "olmo2", "olmoe", "openai-gpt", "opt", "pegasus", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "roberta", "smollm3", "stablelm", "starcoder2", "t5", "xglm", "xlm", "xlnet",
}  # fmt: skip
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
MAPPINGS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)


def model_of(kind):
    """A language model of this type with few layers and no memory."""
    import transformers

    name = next(mapping[kind] for mapping in MAPPINGS if kind in mapping)
    config = AutoConfig.for_model(kind)
    for depth in DEPTHS:
        if hasattr(config, depth):
            setattr(config, depth, 2)
    with torch.device("meta"):
        return getattr(transformers, name)(config)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_matrices_are_of_the_kind_that_their_class_has(kind):
    model = model_of(kind)
    config = {"model_type": kind, "architectures": [type(model).__name__]}
    expected = {}
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}"
            if is_task_head(name, config):
                continue
            if leaf != "weight" or parameter.ndim != 2:
                expected[name] = LayerKind.OTHER, parameter.shape
            elif isinstance(module, torch.nn.Linear):
                is_router = path.rpartition(".")[2] in ("gate", "router")
                layer = LayerKind.OUTPUT if is_output(name) else LayerKind.LINEAR
                expected[name] = LayerKind.OTHER if is_router else layer, parameter.shape
            elif isinstance(module, Conv1D):
                expected[name] = LayerKind.CONV1D, parameter.shape
            elif isinstance(module, torch.nn.Embedding):
                expected[name] = LayerKind.EMBEDDING, parameter.shape
            else:
                # Routers, which have classes of their own, and sinusoids.
                expected[name] = layer_kind(name, parameter.shape, config), parameter.shape
                assert expected[name][0] in (LayerKind.OTHER, LayerKind.EMBEDDING)
    for name, (layer, shape) in expected.items():
        assert layer_kind(name, tuple(shape), config) is layer, name
    assert any(layer in (LayerKind.LINEAR, LayerKind.CONV1D) for layer, _ in expected.values())


def test_task_heads_are_not_linear_layers():
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    assert layer_kind("classifier.weight", (2, 64), config) is LayerKind.TASK_HEAD
