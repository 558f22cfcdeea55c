"""WUDI against least squares in NumPy, and the properties that it has."""

import numpy as np
import pytest

from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.methods.wudi import Wudi


def drawn(seed, *shape):
    return (np.random.default_rng(seed).standard_normal(shape) * 1e-3).astype(np.float32)


def expected_of(*deltas, ridge=0.0):
    """The definition: minimize sum_k |(D - d_k) d_k^T|^2 / |d_k|^2, pulled towards the mean."""
    deltas = [np.asarray(delta, np.float64) for delta in deltas]
    grams = [delta.T @ delta / (delta**2).sum() for delta in deltas]
    width, count = len(grams[0]), len(deltas)
    pull = ridge * count / width
    right = sum(delta @ gram for delta, gram in zip(deltas, grams, strict=True))
    right += pull / count * sum(deltas)
    return right @ np.linalg.pinv(sum(grams) + pull * np.eye(width), rcond=1e-12, hermitian=True)


def merge_deltas(merge, *deltas, ridge=0.0, **arguments):
    """Merged delta of one matrix over a base of zeros."""
    experts = {f"e{n}": {"w": np.array(delta, np.float32)} for n, delta in enumerate(deltas)}
    base = {"w": np.zeros_like(experts["e0"]["w"])}
    return merge(base, experts, Wudi(ridge=ridge), **arguments)["w"]


def interference(merged, deltas):
    return sum(
        (((merged - delta) @ delta.T) ** 2).sum() / (delta**2).sum()
        for delta in np.asarray(deltas, np.float64)
    )


@pytest.mark.parametrize("shape", [(48, 32), (12, 48), (36, 48), (40, 40)])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ridge", [0.0, 0.01, 0.1])
def test_it_is_the_solution_of_the_least_squares(merge, shape, count, ridge):
    deltas = [drawn(seed, *shape) for seed in range(count)]
    expected = expected_of(*deltas, ridge=ridge)
    difference = merge_deltas(merge, *deltas, ridge=ridge) - expected
    assert np.linalg.norm(difference) < 2e-6 * np.linalg.norm(expected)


def test_no_small_step_interferes_less(merge):
    deltas = [drawn(seed, 40, 16) for seed in range(3)]
    merged = merge_deltas(merge, *deltas).astype(np.float64)
    least = interference(merged, deltas)
    for seed in range(20):
        assert interference(merged + drawn(100 + seed, 40, 16) / 100, deltas) > least


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([[[1, 0], [1, 0]], [[1, 1], [1, 1]]], [[1, 1], [1, 1]]),
        ([[[2, 0], [0, 1]], [[1, 1], [0, 1]]], [[1.872449, 0.433673], [0, 1]]),
        ([np.zeros((2, 2)), np.zeros((2, 2))], np.zeros((2, 2))),
        ([[[3, 1], [0, 2]], np.zeros((2, 2))], [[3, 1], [0, 2]]),
        # Two rows together, three columns.
        ([[[3, 1, 2]], np.zeros((1, 3))], [[3, 1, 2]]),
        ([[[1, 0, 0]], [[1, 1, 0]]], [[1, 1, 0]]),
    ],
)
def test_worked_examples(merge, deltas, expected):
    np.testing.assert_allclose(merge_deltas(merge, *deltas), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 32), (6, 48)])
@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_one_expert_and_equal_experts_are_returned(merge, shape, ridge, count):
    delta = drawn(3, *shape)
    merged = merge_deltas(merge, *[delta] * count, ridge=ridge)
    np.testing.assert_allclose(merged, delta, atol=2e-5 * np.abs(delta).max())


def test_experts_with_input_spaces_of_their_own_are_added(merge):
    one, other = drawn(1, 30, 20), drawn(2, 30, 20)
    one[:, 10:], other[:, :10] = 0, 0
    np.testing.assert_allclose(merge_deltas(merge, one, other), one + other, atol=1e-8)


def test_rotated_outputs_and_inputs_rotate_the_result(merge):
    deltas = [drawn(seed, 40, 16) for seed in range(2)]
    left, _ = np.linalg.qr(drawn(8, 40, 40).astype(np.float64))
    right, _ = np.linalg.qr(drawn(9, 16, 16).astype(np.float64))
    rotated = merge_deltas(merge, *(left @ delta @ right for delta in deltas), ridge=0.01)
    expected = left @ merge_deltas(merge, *deltas, ridge=0.01) @ right
    np.testing.assert_allclose(rotated, expected, atol=1e-8)


def test_only_linear_layers_change(merge):
    names = {
        "model.embed_tokens.weight": (30, 8),
        "model.layers.0.mlp.up_proj.weight": (24, 8),
        "model.layers.0.input_layernorm.weight": (8,),
        "embeddings.position_embeddings.weight": (16, 8),
        "transformer.wpe.weight": (16, 8),
        "lm_head.weight": (30, 8),
    }
    base = {name: drawn(1, *shape) for name, shape in names.items()}
    experts = {
        expert: {name: tensor + drawn(seed, *tensor.shape) for name, tensor in base.items()}
        for seed, expert in ((2, "code"), (3, "math"))
    }
    merged = merge(base, experts, Wudi())
    changed = {name for name in base if not np.array_equal(merged[name], base[name])}
    assert changed == {"model.layers.0.mlp.up_proj.weight"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_elements_that_are_not_finite_are_errors_where_nothing_is_merged_as_well(merge, value):
    shapes = {"model.layers.0.q_proj.bias": (8,), "model.embed_tokens.weight": (30, 8)}
    base = {name: drawn(1, *shape) for name, shape in shapes.items()}
    for name in shapes:
        experts = {expert: {key: each.copy() for key, each in base.items()} for expert in "ab"}
        assert np.array_equal(merge(base, experts, Wudi())[name], base[name])
        experts["b"][name].flat[3] = value
        with pytest.raises(CheckpointError, match=rf"expert b holds (nan|inf) in {name}"):
            merge(base, experts, Wudi())


def test_near_its_pole_it_needs_a_ridge(merge):
    deltas = [drawn(seed, 16, 64) for seed in range(4)]
    with pytest.raises(ConfigError, match=r"unstable for w: the 4 x 16 rows .* set ridge to 0.01"):
        merge_deltas(merge, *deltas)
    with_ridge = merge_deltas(merge, *deltas, ridge=0.01)
    assert np.linalg.norm(with_ridge) < 3 * np.linalg.norm(sum(deltas))
    assert np.linalg.norm(expected_of(*deltas)) > 5 * np.linalg.norm(sum(deltas))


def test_layers_that_are_stored_transposed_are_refused(merge):
    base = {"h.0.attn.c_attn.weight": drawn(1, 8, 24)}
    experts = {name: {key: 2 * w for key, w in base.items()} for name in ("code", "math")}
    with pytest.raises(ConfigError, match=r"h.0.attn.c_attn.weight is stored \[in, out\]"):
        merge(base, experts, Wudi())


@pytest.mark.parametrize("chunk_size", [GRAIN, 3 * GRAIN, 16 * GRAIN])
def test_threads_and_chunks_change_no_bit(merge_on, chunk_size):
    one = merge_on(Wudi(), 1, 16 * GRAIN)
    assert merge_on(Wudi(), 2, chunk_size) == one
    assert merge_on(Wudi(), 7, chunk_size) == one
