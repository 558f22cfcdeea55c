import pytest
from pydantic import ValidationError

from mergegrid.errors import ConfigError
from mergegrid.recipes.recipe import base_only
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.schema.grids import Similarity


def test_the_unchanged_expert_comes_first_then_the_base_then_the_grid(content, read):
    content |= {"similarity": {}, "rates": [0, 0.9], "seeds": {"mask": [0, 1]}}
    recipes = read(content).similarity_recipes("bert", "rte", 0)
    assert [recipe.sparsifier for recipe in recipes] == [
        NoSparsifier(),
        base_only(),
        Dare(rate=0.9, seed=0),
        Dare(rate=0.9, seed=1),
        DropOnly(rate=0.9, seed=0),
        DropOnly(rate=0.9, seed=1),
    ]


def test_a_sparsifier_may_have_its_own_rates(content, read):
    content |= {"similarity": {"sparsifiers": [{"kind": "dare", "rate": 0.5}]}}
    content |= {"rates": [0, 0.9], "seeds": {"mask": [3]}}
    recipes = read(content).similarity_recipes("bert", "rte", 1)
    assert recipes[2].sparsifier == Dare(rate=0.5, seed=3)
    assert {(each.experts, each.training_seed) for each in recipes} == {(("rte",), 1)}


def test_rates_for_other_experts_are_refused(content, read):
    content["similarity"] = {"sparsifiers": [{"kind": "dare", "rates": {"rte": 0.5}}]}
    with pytest.raises(ConfigError, match=r"similarity.sparsifiers: dare.rates refers to rte"):
        read(content)


def test_texts_may_be_of_validation_and_the_split_is_left_out_by_default():
    assert Similarity(split="validation").split == "validation"
    assert "split" not in Similarity().model_dump()
    with pytest.raises(ValidationError, match="split"):
        Similarity(split="train")


def test_no_sparsifiers_and_no_examples_are_refused():
    with pytest.raises(ValidationError, match="sparsifiers"):
        Similarity(sparsifiers=[])
    with pytest.raises(ValidationError, match="examples"):
        Similarity(examples=0)
