"""RegMean against its normal equations in NumPy, and against least squares itself."""

import numpy as np
import pytest

from mergegrid.errors import CheckpointError
from mergegrid.methods.regmean import RegMean
from mergegrid.sparsifiers.dare import Dare

NAMES = ("chat", "code", "math")
LAYERS = ("layer.weight", "embedding.weight")


@pytest.fixture(scope="module")
def inputs():
    """What goes into every linear layer under every expert."""
    random = np.random.default_rng(5)
    mixing = random.standard_normal((8, 8))
    return {
        name: {layer: random.standard_normal((300, 8)) @ mixing for layer in LAYERS}
        for name in NAMES
    }


@pytest.fixture(scope="module")
def grams(inputs):
    """Gram matrices as files hold them: float32, of linear layers alone."""
    return {
        name: {layer: (x.T @ x / len(x)).astype(np.float32) for layer, x in each.items()}
        for name, each in inputs.items()
    }


def fitted(weights, grams, spec):
    """W = (sum W G) (sum G)^-1, in float64, a part of the ridge in every G."""
    scaled = [
        spec.offdiagonal * g + (1 - spec.offdiagonal) * np.diag(np.diag(g))
        for g in (each.astype(np.float64) for each in grams)
    ]
    ridge = spec.ridge * np.diag(sum(scaled)).mean() / len(scaled)
    scaled = [g + ridge * np.eye(len(g)) for g in scaled]
    return sum(w @ g for w, g in zip(weights, scaled, strict=True)) @ np.linalg.inv(sum(scaled))


@pytest.mark.parametrize("offdiagonal", [0.0, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1])
def test_layers_solve_the_normal_equations(merge, base, experts, grams, offdiagonal, ridge):
    spec = RegMean(offdiagonal=offdiagonal, ridge=ridge)
    merged = merge(base, experts, spec, statistics=grams)
    for layer in LAYERS:
        weights = [experts[name][layer] for name in NAMES]
        expected = fitted(weights, [grams[name][layer] for name in NAMES], spec)
        np.testing.assert_allclose(merged[layer], expected, rtol=1e-4, atol=1e-7)


def test_a_layer_fits_the_outputs_of_all_experts_best(merge, base, experts, inputs, grams):
    merged = merge(base, experts, RegMean(offdiagonal=1), statistics=grams)
    for layer in LAYERS:
        x = np.concatenate([inputs[name][layer] for name in NAMES])
        y = np.concatenate([inputs[name][layer] @ experts[name][layer].T for name in NAMES])
        best = np.linalg.lstsq(x, y, rcond=None)[0].T
        np.testing.assert_allclose(merged[layer], best, rtol=1e-3, atol=1e-5)


def test_tensors_without_a_gram_matrix_are_averaged(merge, base, experts, grams):
    merged, average = merge(base, experts, RegMean(), statistics=grams), merge(base, experts)
    assert np.array_equal(merged["layer.bias"], average["layer.bias"])
    few = {name: {LAYERS[0]: each[LAYERS[0]]} for name, each in grams.items()}
    merged = merge(base, experts, RegMean(), statistics=few)
    assert np.array_equal(merged[LAYERS[1]], average[LAYERS[1]])
    assert not np.array_equal(merged[LAYERS[0]], average[LAYERS[0]])


@pytest.mark.parametrize("ridge", [0.0, 1e-5, 0.1, 10])
def test_equal_experts_come_back(merge, base, experts, grams, ridge):
    same = dict.fromkeys(NAMES, experts["math"])
    merged = merge(base, same, RegMean(ridge=ridge), statistics=grams)
    for name in base:
        np.testing.assert_allclose(merged[name], experts["math"][name], rtol=1e-5, atol=1e-8)


def test_it_merges_what_a_sparsifier_leaves(merge, sparsify, base, experts, grams):
    spec = Dare(rate=0.5)
    left = {name: sparsify(spec, base, experts[name], name)[1] for name in NAMES}
    merged = merge(base, experts, RegMean(), spec, statistics=grams)
    for layer in LAYERS:
        weights = [left[name][layer] for name in NAMES]
        expected = fitted(weights, [grams[name][layer] for name in NAMES], RegMean())
        np.testing.assert_allclose(merged[layer], expected, rtol=1e-4, atol=1e-7)


def test_statistics_of_experts_that_are_not_merged_change_nothing(merge, base, experts, grams):
    some, names = {name: grams[name] for name in ("code", "math")}, ("code", "math")
    one, other = (
        merge(base, experts, RegMean(), names=names, statistics=each) for each in (some, grams)
    )
    assert all(np.array_equal(one[name], other[name]) for name in base)


def test_a_singular_sum_is_refused_and_a_ridge_helps(merge, base, experts):
    column = np.arange(1, 9.0)[:, None]
    singular = {name: {"layer.weight": column @ column.T} for name in NAMES}
    with pytest.raises(
        CheckpointError,
        match=r"Gram matrices of layer\.weight sum to a singular matrix.*ridge to 1e-5 or more",
    ):
        merge(base, experts, RegMean(offdiagonal=1), statistics=singular)
    merged = merge(base, experts, RegMean(offdiagonal=1, ridge=1e-5), statistics=singular)
    assert np.isfinite(merged["layer.weight"]).all()


@pytest.fixture
def wide():
    """A base, experts and inputs of a layer [8, 192]."""
    random = np.random.default_rng(0)
    mixing, _ = np.linalg.qr(random.standard_normal((192, 192)))
    mixing *= np.logspace(0, -1, 192)[:, None]

    def inputs(count):
        return random.standard_normal((count, 192)) @ mixing

    base = random.standard_normal((8, 192)).astype(np.float32)
    experts = {
        name: {"layer.weight": base + random.standard_normal(base.shape).astype(np.float32) / 10}
        for name in NAMES
    }
    return {"layer.weight": base}, experts, inputs


def gathered(inputs, count):
    """Gram matrices of so many inputs of each expert, as files hold them."""
    return {
        name: {"layer.weight": (x.T @ x / count).astype(np.float32)}
        for name in NAMES
        for x in [inputs(count)]
    }


def summed(grams):
    return sum(each["layer.weight"].astype(np.float64) for each in grams.values())


def misfit(merged, experts, x):
    """How far outputs are from the experts' mean, as a share of it."""
    outputs = np.mean([x @ experts[name]["layer.weight"].T for name in NAMES], axis=0)
    return np.linalg.norm(x @ merged["layer.weight"].T - outputs) / np.linalg.norm(outputs)


def test_fewer_inputs_than_columns_are_refused_though_rounding_hides_it(merge, wide):
    base, experts, inputs = wide
    few = gathered(inputs, 50)
    assert np.linalg.cond(summed(few)) < 1e13
    with pytest.raises(CheckpointError, match="singular matrix"):
        merge(base, experts, RegMean(offdiagonal=1), statistics=few)
    merged = merge(base, experts, RegMean(offdiagonal=1, ridge=1e-5), statistics=few)
    assert misfit(merged, experts, inputs(500)) < 0.2


def test_columns_of_unlike_sizes_are_not_taken_for_a_singular_sum(merge, wide):
    base, experts, inputs = wide
    sizes = np.logspace(-4, 1, 192)
    enough = gathered(lambda count: inputs(count) * sizes, 1000)
    assert np.linalg.cond(summed(enough)) > 1e10
    merged = merge(base, experts, RegMean(offdiagonal=1), statistics=enough)
    assert misfit(merged, experts, inputs(500) * sizes) < 0.05
