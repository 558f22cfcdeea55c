"""The table of names, compared with what the installed transformers' classes say of themselves."""

import re

import pytest
from transformers.models.auto import modeling_auto

from mergegrid.checkpoints.architectures import (
    EMBEDDING,
    UNTIED,
    is_output,
    missing_prefix,
    tied_biases,
    tied_names,
    ties_output,
)

MAPPINGS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
)


def classes(kind):
    """Classes with a language-model head of a model type, and its config."""
    found = {}
    for mapping in MAPPINGS:
        if kind in mapping._model_mapping:
            each = mapping._load_attr_from_module(kind, mapping._model_mapping[kind])
            config = mapping._load_attr_from_module(kind, mapping._config_mapping[kind])
            found[each.__name__] = each, config
    return list(found.values())


@pytest.mark.parametrize("kind", sorted(EMBEDDING))
def test_the_table_says_what_transformers_classes_say(kind):
    found = classes(kind)
    assert found, f"transformers has no language model of type {kind}"
    for model, config in found:
        # T5's is set when it is made, to true; so is that of a class without the attribute.
        assert getattr(config, "tie_word_embeddings", True) == (kind not in UNTIED)
        pairs = model._tied_weights_keys or {}
        # With the names of the body, as in a file, and those of the encoder where it has one.
        names = [*(name.rstrip("$") for pair in pairs.items() for name in pair)]
        path = EMBEDDING[kind]
        if "shared" in path and "ForCausalLM" not in model.__name__:
            names.append(path.removesuffix("shared") + "encoder.layers.0.weight")
            names.append(f"{path}.weight")
        says = {"model_type": kind, "architectures": [model.__name__]}
        embedding, others = tied_names(names, says)
        biases = tied_biases(names)
        for other, source in pairs.items():
            if other.endswith(".bias"):
                assert biases[other] == source
                continue
            assert other in others
            at_first = source.rstrip("$") if kind != "marian" else embedding
            assert embedding == at_first
        assert ties_output(says) == (kind not in UNTIED)
        body, _, rest = path.partition(".")
        if rest and "ForCausalLM" in model.__name__ and "shared" not in path:
            assert model.base_model_prefix == body
            bare = [f"{rest}.weight", "layers.0.weight"]
            assert missing_prefix(bare, says) == f"{body}."
            assert missing_prefix([f"{path}.weight"], says) == ""


def test_heads_of_all_text_models_are_known_as_such():
    unknown = set()
    for mapping in MAPPINGS:
        for kind, name in mapping._model_mapping.items():
            if kind not in EMBEDDING:
                continue
            model = mapping._load_attr_from_module(kind, name)
            for other in model._tied_weights_keys or {}:
                if not re.search(r"embed_tokens|\.bias$", other) and not is_output(other):
                    unknown.add((kind, other))
    assert not unknown


@pytest.mark.parametrize(
    "names",
    [
        ["layers.0.a", "embed_tokens.weight"],
        ["layers.0.a", "embed_tokens.weight", "lm_head.weight"],
    ],
)
@pytest.mark.parametrize(
    ("name", "prefix"),
    [("LlamaForCausalLM", "model."), ("LlamaForSequenceClassification", "model."),
     ("LlamaModel", ""), (None, "")],
)  # fmt: skip
def test_a_prefix_lacks_only_in_a_class_that_has_a_head(names, name, prefix):
    config = {"model_type": "llama", "architectures": [name] if name else None}
    assert missing_prefix(names, config) == prefix
