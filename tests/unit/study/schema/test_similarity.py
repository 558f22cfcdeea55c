import pytest
from pydantic import ValidationError

from mergegrid.recipes.recipe import base_only
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.schema.similarity import Similarity


def test_the_expert_as_it_is_comes_first_then_the_base_then_the_grid():
    points = Similarity().points([0, 0.9], [0, 1])
    assert points[:2] == [NoSparsifier(), base_only()]
    assert points[2:] == [
        Dare(rate=0.9, seed=0),
        Dare(rate=0.9, seed=1),
        DropOnly(rate=0.9, seed=0),
        DropOnly(rate=0.9, seed=1),
    ]


def test_a_sparsifier_may_name_rates_of_its_own():
    similarity = Similarity(sparsifiers=[{"kind": "dare", "rate": 0.5}])
    recipes = similarity.recipes([0, 0.9], [3], "bert", "cola", 1)
    assert recipes[2].sparsifier == Dare(rate=0.5, seed=3)
    assert {(each.experts, each.training_seed) for each in recipes} == {(("cola",), 1)}


def test_rates_for_experts_that_are_not_there_are_refused():
    similarity = Similarity(sparsifiers=[{"kind": "dare", "rates": {"rte": 0.5}}])
    with pytest.raises(ValueError, match=r"similarity.sparsifiers: dare.rates refers to rte"):
        similarity.check([0.9], [0], ["cola"])


def test_no_sparsifiers_and_no_examples_are_refused():
    with pytest.raises(ValidationError, match="sparsifiers"):
        Similarity(sparsifiers=[])
    with pytest.raises(ValidationError, match="examples"):
        Similarity(examples=0)
