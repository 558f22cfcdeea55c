"""EMR and TALL masks against NumPy, the worked examples, and the properties that it has."""

import numpy as np
import pytest

from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.methods.emr import Emr
from mergegrid.methods.tall_mask import TallMask
from mergegrid.recipes.merge_file import MergeFile, recipes_of

NAMES = ("chat", "code", "math")


def expected_of(deltas, number, arithmetic="exact"):
    """The delta of one expert's model by name of tensor, from deltas [K, ...] by name."""
    masked, sizes = {}, {}
    for name, stacked in deltas.items():
        total = (stacked[0] + stacked[1]) + stacked[2]
        sign = np.where(total > 0, 1, -1)
        agrees = stacked * sign > 0
        merged = sign * (np.abs(stacked) * agrees).max(axis=0)
        masked[name] = merged * agrees[number]
        size = stacked[number].size if arithmetic == "reference" else 1
        sizes[name] = np.array([np.abs(stacked[number]).sum(), np.abs(masked[name]).sum()]) / size
    before, after = sum(size.astype(np.float64) for size in sizes.values())
    return {name: before / after * delta for name, delta in masked.items()}


@pytest.mark.parametrize("arithmetic", ["exact", "reference"])
def test_each_expert_gets_the_merged_delta_under_its_mask(merge, base, experts, arithmetic):
    deltas = {n: np.stack([experts[e][n] - base[n] for e in NAMES]) for n in base}
    models = []
    for number, expert in enumerate(NAMES):
        merged = merge(base, experts, Emr(expert=expert, arithmetic=arithmetic))
        for name, delta in expected_of(deltas, number, arithmetic).items():
            np.testing.assert_allclose(merged[name] - base[name], delta, rtol=1e-3, atol=1e-8)
        models.append(merged["layer.weight"].tobytes())
    assert len(set(models)) == 3


def merge_deltas(merge, deltas, expert="a", method=None):
    experts = {name: {"w": np.float32(delta)} for name, delta in deltas.items()}
    width = len(next(iter(deltas.values())))
    return merge({"w": np.zeros(width, np.float32)}, experts, method or Emr(expert=expert))["w"]


@pytest.mark.parametrize(
    ("expert", "expected"), [("a", [4.5, 0, 0]), ("b", [1.909091, 1.272727, -0.318182])]
)
def test_worked_example(merge, expert, expected):
    """Where the sum is zero, the negative delta is elected."""
    deltas = {"a": [3, -1, 0.5], "b": [1, 2, -0.5]}
    np.testing.assert_allclose(merge_deltas(merge, deltas, expert), expected, rtol=1e-6)


@pytest.mark.parametrize(("expert", "expected"), [("a", [6, 0, 0, 2]), ("b", [6, 4, 0, 0])])
def test_worked_example_of_tall_masks(merge, expert, expected):
    deltas = {"a": [3, 0, -1, 2], "b": [3, 4, 1, 0]}
    method = TallMask(expert=expert, threshold=0.4)
    assert merge_deltas(merge, deltas, method=method).tolist() == expected


@pytest.mark.parametrize("expert", NAMES)
def test_tall_masks_keep_of_the_sum_what_an_expert_needs(merge, base, experts, expert):
    merged = merge(base, experts, TallMask(expert=expert, threshold=0.3, coefficient=0.7))
    for name in base:
        deltas = [experts[e][name] - base[name] for e in NAMES]
        total = (deltas[0] + deltas[1]) + deltas[2]
        delta = deltas[NAMES.index(expert)]
        needed = np.abs(delta) > np.float32(0.3) * np.abs(total - delta)
        assert 0 < needed.mean() < 1
        expected = base[name] + 0.7 * np.where(needed, total, 0)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-9)


def test_one_expert_is_its_own_tall_mask(merge, base, experts):
    merged = merge(base, experts, TallMask(expert="math"), names=("math",))
    for name in base:
        np.testing.assert_allclose(merged[name], experts["math"][name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("count", [1, 3])
def test_one_expert_and_equal_experts_are_returned(merge, base, experts, count):
    copies = {f"copy{number}": experts["math"] for number in range(count)}
    merged = merge(base, copies, Emr(expert="copy0"))
    for name in base:
        np.testing.assert_allclose(merged[name], experts["math"][name], rtol=1e-6, atol=1e-8)


def test_the_size_of_each_delta_is_that_of_the_expert(merge, base, experts):
    for expert in NAMES:
        merged = merge(base, experts, Emr(expert=expert))
        before, after = (
            sum(np.abs(model[name] - base[name]).sum(dtype=np.float64) for name in base)
            for model in (experts[expert], merged)
        )
        assert after == pytest.approx(before, rel=1e-5)


def test_deltas_of_twice_the_size_merge_to_twice_the_delta_in_any_order(merge):
    random = np.random.default_rng(0)
    deltas = {name: random.standard_normal(50) for name in NAMES}
    one = merge_deltas(merge, deltas, "code")
    two = merge_deltas(merge, {name: 2 * delta for name, delta in deltas.items()}, "code")
    assert np.array_equal(two, 2 * one)
    backwards = dict(reversed(list(deltas.items())))
    assert np.array_equal(merge_deltas(merge, backwards, "code"), one)


def test_models_of_all_experts_come_from_one_pass(open_engine, stream, recipe_of, base, experts):
    recipes = [recipe_of(Emr(expert=expert), NAMES) for expert in NAMES]
    together = stream(open_engine(base, experts), recipes)
    for recipe, tensors in zip(recipes, together, strict=True):
        (alone,) = stream(open_engine(base, experts), [recipe])
        assert all(tensors[name].tobytes() == alone[name].tobytes() for name in base)


@pytest.mark.parametrize(("threads", "chunk_size"), [(1, GRAIN), (2, 3 * GRAIN), (7, 16 * GRAIN)])
@pytest.mark.parametrize("method", [Emr(expert="math"), TallMask(expert="math")])
def test_threads_and_chunks_change_no_bit(merge, method, threads, chunk_size):
    random = np.random.default_rng(0)
    base = {"w": random.standard_normal(5 * GRAIN + 77).astype("f4"), "b": np.ones(9, "f4")}
    experts = {
        name: {n: w + random.standard_normal(w.size).astype("f4") for n, w in base.items()}
        for name in NAMES
    }
    options = EngineOptions(threads=threads, chunk_size=chunk_size)
    merged = merge(base, experts, method, options=options)
    expected = merge(base, experts, method)
    assert all(merged[name].tobytes() == expected[name].tobytes() for name in base)


def test_a_merge_file_makes_a_model_of_every_expert_that_is_listed():
    content = {"base": "b", "experts": {"code": "c", "math": "m"}}
    file = MergeFile.model_validate(
        content | {"method": {"kind": "emr", "expert": ["code", "math"]}}
    )
    assert {recipe.method.expert for recipe in recipes_of(file, "f").values()} == {"code", "math"}


@pytest.mark.parametrize("kind", [Emr, TallMask])
def test_an_expert_that_is_unset_or_a_stranger_is_refused(merge, base, experts, kind):
    with pytest.raises(ConfigError, match=r" makes one model per expert; .* chat, code, math"):
        merge(base, experts, kind())
    with pytest.raises(ConfigError, match=r"\.expert is law, which is not an .* chat, code, math"):
        merge(base, experts, kind(expert="law"))


def test_an_expert_that_agrees_nowhere_has_no_model(merge):
    deltas = {"a": [3, -2], "b": [-1, 1], "c": [0, 0]}
    with pytest.raises(ConfigError, match="no model for b: none of its deltas has the sign"):
        merge_deltas(merge, deltas, "b")
    assert merge_deltas(merge, deltas, "c").tolist() == [0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_model_is_named_whichever_tensor_is_merged_first(merge, value):
    base = {"a": np.zeros(7), "b": np.zeros(3000)}
    code = {name: each + 1 for name, each in base.items()}
    math = {name: each - 1 for name, each in base.items()}
    math["b"][5] = value
    options = EngineOptions(threads=1, chunk_size=GRAIN)
    for expert in ("code", "math"):
        with pytest.raises(CheckpointError, match=rf"expert math holds {value} in b \(element 5"):
            merge(base, {"math": math, "code": code}, Emr(expert=expert), options=options)


def test_an_overflow_of_a_delta_is_no_damaged_model(merge):
    base = {"a": np.zeros(7), "b": np.full(3, -3e38)}
    code = {"a": base["a"] + 1, "b": base["b"]}
    math = {"a": base["a"] - 1, "b": -base["b"]}
    with pytest.raises(CheckpointError, match="merged b has values that float32 cannot hold"):
        merge(base, {"math": math, "code": code}, Emr(expert="code"))
