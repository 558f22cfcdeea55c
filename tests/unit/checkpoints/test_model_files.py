"""The files beside the weights: what comes along from the base, and from the hub."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from mergegrid import Average, merge
from mergegrid.checkpoints.model_files import config_files
from mergegrid.checkpoints.sources.hub_files import patterns
from mergegrid.errors import CheckpointError

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def merged(folder):
    merge(folder / "base", {"one": folder / "one"}, method=Average(), out=folder / "out")
    return folder / "out"


def sentence_encoder(folder, seed):
    """A BERT with the modules of a sentence encoder, as sentence-transformers saves them."""
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=30, max_position_embeddings=16, **SIZES)
    BertModel(config).save_pretrained(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "..."},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    (folder / "config_sentence_transformers.json").write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


SENTENCE_FILES = [
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
]


def test_the_modules_of_a_sentence_encoder_come_along(tmp_path):
    base = sentence_encoder(tmp_path / "base", 0)
    sentence_encoder(tmp_path / "one", 1)
    out = merged(tmp_path)
    assert config_files(base) == SENTENCE_FILES
    for name in set(SENTENCE_FILES) - {"config.json"}:
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert set(SENTENCE_FILES) <= json.loads((out / "manifest.json").read_text())["files"].keys()
    AutoModel.from_pretrained(out)


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ('[{"path": "../other"}]', "refers to ../other, outside of"),
        ('[{"path": "/etc"}]', "refers to /etc, outside of"),
        ('{"path": 1}', "is not a list of modules with their paths"),
        ("[", "is not a list of modules with their paths"),
    ],
)
def test_modules_elsewhere_are_refused(tmp_path, modules, says):
    sentence_encoder(tmp_path / "base", 0)
    sentence_encoder(tmp_path / "one", 1)
    (tmp_path / "base" / "modules.json").write_text(modules)
    with pytest.raises(CheckpointError, match=says):
        merged(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_processor_of_a_text_and_image_model_comes_along(tmp_path):
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **SIZES)
    text = LlamaConfig(vocab_size=32, max_position_embeddings=64, **SIZES)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=31)
    for seed, name in enumerate(["base", "one"]):
        torch.manual_seed(seed)
        LlavaForConditionalGeneration(config).save_pretrained(tmp_path / name)
    CLIPImageProcessor(size={"shortest_edge": 16}).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "processor_config.json").write_text('{"patch_size": 8}')
    out = merged(tmp_path)
    assert CLIPImageProcessor.from_pretrained(out).size["shortest_edge"] == 16
    assert (out / "processor_config.json").read_text() == '{"patch_size": 8}'
    _, report = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    one, found = (load_file(path / "model.safetensors") for path in (tmp_path / "one", out))
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, one[name])


def test_the_hub_s_named_templates_and_modules_are_downloaded():
    chosen = [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "additional_chat_templates/rag.jinja",
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "modules.json",
        "preprocessor_config.json",
    ]
    others = [
        "additional_chat_templates/README",
        "onnx/config.json",
        "other/additional_chat_templates/x.jinja",
        "openvino/model.json",
    ]
    assert patterns([*others, *chosen], "model", None) == chosen
    below = [f"sub/{name}" for name in chosen]
    assert patterns([*others, *below], "model", "sub") == below
