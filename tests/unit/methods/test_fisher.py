"""Fisher merging against its formula in NumPy."""

from collections import Counter

import numpy as np
import pytest

from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.sparsifiers.dare import Dare

NAMES = ("chat", "code", "math")


@pytest.fixture(scope="module")
def information(base):
    """Squared gradients, many of them smaller than the floor, of another size per expert."""
    random = np.random.default_rng(3)
    return {
        name: {
            key: (random.standard_normal(each.shape) ** 6 * 10.0**-number).astype(np.float32)
            for key, each in base.items()
        }
        for number, name in enumerate(NAMES, start=4)
    }


def weighted_by_information(experts, information, spec):
    """sum w (F + e) x / sum w (F + e), in float64."""
    factors = np.array([spec.weights.get(name, 1.0) for name in NAMES])
    if spec.normalize:
        flat = [np.concatenate([f.ravel() for f in information[n].values()]) for n in NAMES]
        factors /= [np.linalg.norm(each.astype(np.float64)) + spec.floor for each in flat]
    merged = {}
    for name in experts["math"]:
        x = np.stack([experts[each][name] for each in NAMES]).astype(np.float64)
        f = np.stack([information[each][name] for each in NAMES]) + np.float64(spec.floor)
        f *= factors.reshape(-1, *[1] * (f.ndim - 1))
        merged[name] = (f * x).sum(axis=0) / f.sum(axis=0)
    return merged


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weights", [{}, {"math": 3, "chat": 0.2}, {"code": 0}])
@pytest.mark.parametrize("floor", [1e-6, 1e-2])
def test_experts_are_weighted_by_their_information(
    merge, base, experts, information, normalize, weights, floor
):
    spec = Fisher(normalize=normalize, weights=weights, floor=floor)
    merged = merge(base, experts, spec, statistics=information)
    for name, expected in weighted_by_information(experts, information, spec).items():
        np.testing.assert_allclose(merged[name], expected, rtol=2e-5, atol=1e-8)


def test_without_information_it_is_the_average(merge, base, experts):
    nothing = {name: {key: np.zeros_like(base[key]) for key in base} for name in NAMES}
    merged, average = merge(base, experts, Fisher(), statistics=nothing), merge(base, experts)
    for name in base:
        np.testing.assert_allclose(merged[name], average[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("factor", [0.1, 1000])
def test_the_same_weight_for_all_changes_nothing(merge, base, experts, information, factor):
    one, other = (
        merge(base, experts, Fisher(weights=weights), statistics=information)
        for weights in ({}, dict.fromkeys(NAMES, factor))
    )
    for name in base:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)


def test_normalized_information_does_not_depend_on_its_unit(merge, base, experts, information):
    other = information | {"math": {key: 64 * f for key, f in information["math"].items()}}
    spec = Fisher(normalize=True, floor=1e-30)
    one, scaled = (merge(base, experts, spec, statistics=each) for each in (information, other))
    for name in base:
        np.testing.assert_allclose(one[name], scaled[name], rtol=1e-4, atol=1e-8)


def test_it_merges_what_a_sparsifier_leaves(merge, sparsify, base, experts, information):
    spec = Dare(rate=0.5)
    left = {name: sparsify(spec, base, experts[name], name)[1] for name in NAMES}
    merged = merge(base, experts, Fisher(), spec, statistics=information)
    for name, expected in weighted_by_information(left, information, Fisher()).items():
        np.testing.assert_allclose(merged[name], expected, rtol=2e-5, atol=1e-8)


def test_statistics_of_experts_that_are_not_merged_change_nothing(
    merge, base, experts, information
):
    some, names = {name: information[name] for name in ("code", "math")}, ("code", "math")
    one, other = (
        merge(base, experts, Fisher(normalize=True), names=names, statistics=each)
        for each in (some, information)
    )
    assert all(np.array_equal(one[name], other[name]) for name in base)


def test_one_expert_alone_comes_back(merge, base, experts, information):
    merged = merge(base, experts, Fisher(), names=("math",), statistics=information)
    average = merge(base, experts, Average(), names=("math",))
    for name in base:
        np.testing.assert_allclose(merged[name], average[name], rtol=1e-6)


def test_statistics_are_read_once_for_all_recipes_of_a_pass(
    open_engine, stream, recipe_of, base, experts, information
):
    engine = open_engine(base, experts, information)
    reads = Counter()
    for name, checkpoint in engine.statistics.items():

        def read(tensor, *place, of=name, through=checkpoint.read):
            reads[of, tensor] += 1
            return through(tensor, *place)

        checkpoint.read = read
    rates = (0, 0.5, 0.9)
    stream(engine, [recipe_of(Fisher(), NAMES, Dare(rate=rate)) for rate in rates])
    assert reads == {(name, tensor): 1 for name in NAMES for tensor in base}
