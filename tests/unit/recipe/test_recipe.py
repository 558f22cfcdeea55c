import json

import pytest
from pydantic import ValidationError

from mergegrid.recipe.methods import Average, TaskArithmetic, Ties
from mergegrid.recipe.recipe import Recipe, base_only, canonical_sparsifier
from mergegrid.recipe.sparsifiers import (
    Dare,
    DropOnly,
    Magnitude,
    MaskedFinetuned,
    NoSparsifier,
)


def test_a_recipe_survives_its_own_json():
    recipe = Recipe(
        family="f", experts=("a", "b"), sparsifier=Dare(rate=0.9, seed=3), method=Ties(trim=0.7)
    )
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_digest_does_not_depend_on_how_the_recipe_was_written():
    text = '{"method": {"kind": "average"}, "experts": ["a"], "family": "f"}'
    short = Recipe.model_validate(json.loads(text))
    full = Recipe(
        family="f",
        experts=("a",),
        training_seed=0,
        sparsifier=NoSparsifier(),
        method=Average(),
    )
    assert short.digest == full.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "g"},
        {"experts": ("b", "a")},
        {"training_seed": 1},
        {"sparsifier": Dare(rate=0.9, seed=1)},
        {"method": TaskArithmetic(coefficient=0.5)},
    ],
)
def test_every_part_of_a_recipe_changes_its_digest(changes):
    recipe = Recipe(family="f", experts=("a", "b"), sparsifier=Dare(rate=0.9))
    assert recipe.model_copy(update=changes).digest != recipe.digest


def test_the_slug_names_experts_sparsifier_and_method():
    recipe = Recipe(family="f", experts=("a", "b"), sparsifier=Dare(rate=0.9, seed=1))
    assert recipe.slug == "f/a+b/dare~rate=0.9~seed=1/average"


@pytest.mark.parametrize("kind", [Dare, DropOnly, Magnitude, MaskedFinetuned])
def test_at_rate_0_every_sparsifier_is_none(kind):
    assert canonical_sparsifier(kind(rate=0)) == NoSparsifier()


@pytest.mark.parametrize("kind", [Dare, DropOnly, Magnitude])
def test_at_rate_1_every_sparsifier_of_deltas_is_the_base(kind):
    assert canonical_sparsifier(kind(rate=1)) == base_only()


def test_an_expert_cannot_be_merged_with_itself():
    with pytest.raises(ValidationError, match="expert a is listed more than once"):
        Recipe(family="f", experts=("a", "a"))


def test_recipes_are_frozen():
    recipe = Recipe(family="f", experts=("a",))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.family = "g"
