"""A recipe is the same however its experts are listed."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.engine.engine import Engine, MergedCheckpoint
from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.sce import Sce
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.study.schema.decoders import DecoderStudy

names = st.lists(
    st.text("abcXYZ019._-", min_size=1, max_size=6), min_size=1, max_size=5, unique=True
)


@given(names, st.randoms())
def test_recipes_sort_their_experts(experts, random):
    shuffled = random.sample(experts, len(experts))
    one, other = (Recipe(family="f", experts=tuple(each)) for each in (experts, shuffled))
    assert one == other
    assert hash(one) == hash(other)
    assert (one.digest, one.slug) == (other.digest, other.slug)
    assert other.experts == tuple(sorted(experts))
    assert Recipe.model_validate_json(one.model_dump_json()) == other


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (Average(weights={"a": 1, "b": 2, "c": 5}), 3),
        (TaskArithmetic(coefficient=0.5, coefficients={"b": 3.0}), 3),
        (Slerp(weights={"a": 1, "b": 3}), 2),
        (Fisher(weights={"c": 4}), 3),
        (Sce(select=0.5), 3),
        (Ties(), 3),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
@pytest.mark.parametrize(
    "sparsifier",
    [Dare(rate=0.5, rates={"b": 0.9}), Magnitude(rate=0.3)],
    ids=lambda each: each.kind,
)
def test_weights_and_rates_stay_with_their_experts(method, count, sparsifier):
    random = np.random.default_rng(0)
    base, *experts = (
        {"w": random.standard_normal((8, 8)).astype(np.float32)} for _ in range(count + 1)
    )
    models = dict(zip("abc", experts, strict=False))
    found = set()
    for order in permutations(models):
        engine = Engine(
            InMemory(base),
            {name: InMemory(models[name]) for name in order},
            {name: InMemory({"w": abs(models[name]["w"])}) for name in order},
        )
        recipe = Recipe(family="f", experts=order, sparsifier=sparsifier, method=method)
        found.add(MergedCheckpoint(engine, engine.bind(recipe))["w"].tobytes())
    assert len(found) == 1


def test_an_ability_that_several_experts_have_counts_for_the_first_of_the_set_as_written():
    """Recipes are sorted; who an ability belongs to is what a user writes."""
    records = {"kind": "gsm8k", "generated": {"generator": "word_problems", "count": 5}}
    expert = {"source": {"source": "hub:a/b"}, "benchmarks": ["sums"]}
    llama = {"base": {"source": "hub:a/c"}, "experts": {"lm": expert, "math": expert}}
    for experts in (["lm", "math"], ["math", "lm"]):
        study = DecoderStudy.model_validate(
            {
                "benchmarks": {"sums": records},
                "families": {"llama": llama},
                "merges": {"sets": [experts]},
            }
        )
        (recipe, *_) = study.merge_recipes("llama", tuple(experts), 0)
        assert recipe.experts == ("lm", "math")
        assert study.owners(recipe) == {"sums": experts[0]}
