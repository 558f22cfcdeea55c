"""Rates of experts and of tensors, by group, layer and pattern."""

import pytest
from pydantic import ValidationError

from mergegrid.engine.values import GROUPS
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.rates import Rule

#: Names of tensors as models of several families have them.
NAMES = {
    "embeddings": [
        "model.embed_tokens.weight",
        "embed_tokens.weight",
        "embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "transformer.wte.weight",
        "wpe.weight",
        "shared.weight",
    ],
    "norms": [
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.10.post_attention_layernorm.weight",
        "model.layers.1.self_attn.q_norm.weight",
        "encoder.layer.0.output.LayerNorm.bias",
        "encoder.block.0.layer.0.layer_norm.weight",
        "transformer.h.0.ln_1.bias",
        "ln_f.weight",
    ],
    "head": ["lm_head.weight", "score.weight", "classifier.bias", "cls.predictions.bias"],
    "": [
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "encoder.layer.11.attention.self.query.weight",
        "transformer.h.2.attn.c_attn.weight",
        "pooler.dense.weight",
    ],
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_about_the_tensors_it_is_called_after(group):
    rule = Rule(tensors=group, rate=0.5)
    for kind, names in NAMES.items():
        assert [name for name in names if rule.applies(name)] == (names if kind == group else [])


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [("layers 0", {0}), ("layers 1-3", {1, 2, 3}), ("layers 10-11", {10, 11})],
)
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.{}.mlp.up_proj.weight",
        "layers.{}.bias",
        "bert.encoder.layer.{}.output.dense.weight",
        "transformer.h.{}.attn.c_attn.weight",
        "decoder.block.{}.layer.1.weight",
        "blocks.{}.w",
    ],
)
def test_layers_are_counted_in_the_names_of_all_families(name, layers, numbers):
    rule = Rule(tensors=layers, rate=0.5)
    assert {number for number in range(13) if rule.applies(name.format(number))} == numbers
    assert not rule.applies("model.embed_tokens.weight")


@pytest.mark.parametrize(
    ("pattern", "name", "applies"),
    [
        ("*.mlp.*", "model.layers.0.mlp.up_proj.weight", True),
        ("*.mlp.*", "mlp.weight", False),
        ("*.bias", "model.norm.bias", True),
        ("*.MLP.*", "model.mlp.w", False),
        ("model.norm.weight", "model.norm.weight", True),
        ("model.norm.weight", "model.norm.weight2", False),
        ("*", "anything", True),
        ("*proj*", "layers.0.q_proj.weight", True),
        ("layers.*.mlp.*", "layers.7.mlp.up_proj.weight", True),
        ("layers.*.mlp.*", "layers.7.attention.weight", False),
    ],
)
def test_a_pattern_is_about_whole_names(pattern, name, applies):
    assert Rule(tensors=pattern, rate=0).applies(name) == applies


@pytest.mark.parametrize("tensors", ["embedding", "norm", "lm_head", "", "mlp", "layer 3"])
def test_what_is_neither_a_group_nor_a_pattern_is_refused_with_the_groups(tensors):
    with pytest.raises(
        ValidationError, match="is not a known group of tensors; use one of embeddings, "
    ):
        Rule(tensors=tensors, rate=0.5)


@pytest.mark.parametrize(
    "tensors", ["layers", "layers 3-", "layers a-b", "layers 0 - 3", "layers0"]
)
def test_layers_without_numbers_are_refused_with_an_example(tensors):
    with pytest.raises(ValidationError, match="use `layers 3` or `layers 0-3`"):
        Rule(tensors=tensors, rate=0.5)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_the_rate_of_a_rule_is_a_share(rate):
    with pytest.raises(ValidationError):
        Rule(tensors="norms", rate=rate)


def test_a_rule_comes_before_the_rate_of_an_expert_and_that_before_the_rate_of_all():
    spec = Dare(rate=0.1, rates={"math": 0.2}, rules=(Rule(tensors="norms", rate=0.3),))
    assert spec.rate_of("code", "lm_head.weight") == 0.1
    assert spec.rate_of("math", "lm_head.weight") == 0.2
    assert spec.rate_of("math", "model.norm.weight") == 0.3
    assert spec.rate_of("code", "model.norm.weight") == 0.3


def test_the_first_rule_that_applies_counts():
    norms, layers = Rule(tensors="norms", rate=0), Rule(tensors="layers 0", rate=0.9)
    name = "model.layers.0.input_layernorm.weight"
    assert Dare(rate=0.1, rules=(norms, layers)).rate_of("a", name) == 0
    assert Dare(rate=0.1, rules=(layers, norms)).rate_of("a", name) == 0.9
