"""Iso-C against a singular value decomposition in NumPy, and the properties that it has."""

import numpy as np
import pytest

from mergegrid.engine.ops.operations import GRAIN
from mergegrid.methods.iso_c import IsoC

SHAPES = {"tall": (48, 32), "wide": (20, 70), "square": (40, 40), "odd": (33, 7), "bias": (40,)}


@pytest.fixture(scope="module")
def models():
    random = np.random.default_rng(0)

    def drawn(scale):
        return {
            name: (random.standard_normal(shape) * scale).astype(np.float32)
            for name, shape in SHAPES.items()
        }

    base = drawn(0.02)
    experts = {
        name: {key: base[key] + delta for key, delta in drawn(0.002).items()}
        for name in ("chat", "code", "math")
    }
    return base, experts


def isotropic(total):
    """mean(S) U V^T by singular value decomposition in float64, null directions left out."""
    left, singular, right = np.linalg.svd(total.astype(np.float64), full_matrices=False)
    kept = singular > 1e-5 * singular.max(initial=0)
    mean = singular[kept].sum() / len(singular)
    return mean * left[:, kept] @ right[kept]


def summed(base, experts, name):
    deltas = [experts[expert][name] - base[name] for expert in sorted(experts)]
    total = deltas[0]
    for delta in deltas[1:]:
        total = total + delta
    return total


def merge_deltas(merge, *deltas, **arguments):
    """Merged delta of one matrix over a base of zeros."""
    experts = {f"e{n}": {"w": np.array(delta, np.float32)} for n, delta in enumerate(deltas)}
    base = {"w": np.zeros_like(experts["e0"]["w"])}
    return merge(base, experts, IsoC(), **arguments)["w"]


@pytest.mark.parametrize("coefficient", [1.0, 0.7])
def test_matrices_get_the_mean_of_the_singular_values(merge, models, coefficient):
    base, experts = models
    merged = merge(base, experts, IsoC(coefficient=coefficient))
    for name in ("tall", "wide", "square", "odd"):
        expected = coefficient * isotropic(summed(base, experts, name))
        np.testing.assert_allclose(merged[name] - base[name], expected, atol=3e-8)


def test_vectors_get_the_mean_of_the_deltas(merge, models):
    base, experts = models
    merged = merge(base, experts, IsoC(coefficient=2))
    expected = base["bias"] + 2 * summed(base, experts, "bias") / 3
    np.testing.assert_allclose(merged["bias"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ([[3, 0], [0, 1]], [[2, 0], [0, 2]]),
        ([[0, 3], [1, 0]], [[0, 2], [2, 0]]),
        ([[2, 0], [1, 1]], [[1.5, -0.5], [0.5, 1.5]]),
        # The mean is over three values, and the direction without a delta stays without one.
        (np.diag([4, 2, 0]), np.diag([2, 2, 0])),
        (np.zeros((2, 3)), np.zeros((2, 3))),
    ],
)
def test_worked_examples(merge, delta, expected):
    np.testing.assert_allclose(merge_deltas(merge, delta), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
def test_deltas_of_low_rank_stay_of_low_rank_whichever_way_they_are_rounded(merge, shape):
    """Two decompositions of one rank-deficient sum, whose noise differs, give one answer."""
    random = np.random.default_rng(1)
    left, right = random.standard_normal((shape[0], 4)), random.standard_normal((4, shape[1]))
    delta = (left @ right * 1e-3).astype(np.float32)
    other = np.nextafter(delta, np.float32(1), where=random.random(shape) < 0.5, out=delta.copy())
    one, two = merge_deltas(merge, delta), merge_deltas(merge, other)
    assert np.linalg.matrix_rank(one.astype(np.float64), rtol=1e-4) == 4
    assert np.linalg.norm(one - two) < 1e-5 * np.linalg.norm(one)
    np.testing.assert_allclose(one, isotropic(delta), atol=1e-6 * np.abs(one).max())


def test_a_spectrum_over_four_orders_of_magnitude_is_flattened_to_float32(merge):
    random = np.random.default_rng(2)
    left, _ = np.linalg.qr(random.standard_normal((96, 64)))
    right, _ = np.linalg.qr(random.standard_normal((64, 64)))
    delta = (left * np.logspace(0, -4, 64) @ right.T).astype(np.float32)
    expected = isotropic(delta)
    difference = merge_deltas(merge, delta) - expected
    assert np.linalg.norm(difference) < 1e-6 * np.linalg.norm(expected)


def test_the_transpose_of_the_deltas_merges_to_the_transpose(merge, models):
    base, experts = models
    total = summed(base, experts, "tall")
    np.testing.assert_allclose(
        merge_deltas(merge, total), merge_deltas(merge, total.T).T, atol=3e-8
    )


def test_rotated_outputs_and_inputs_rotate_the_result(merge):
    random = np.random.default_rng(3)
    delta = random.standard_normal((24, 16))
    left, _ = np.linalg.qr(random.standard_normal((24, 24)))
    right, _ = np.linalg.qr(random.standard_normal((16, 16)))
    rotated = merge_deltas(merge, left @ delta @ right)
    np.testing.assert_allclose(rotated, left @ merge_deltas(merge, delta) @ right, atol=1e-5)


def test_deltas_of_twice_the_size_merge_to_twice_the_delta(merge, models):
    base, experts = models
    for name in ("tall", "wide"):
        total = summed(base, experts, name)
        assert np.array_equal(2 * merge_deltas(merge, total), merge_deltas(merge, 2 * total))


@pytest.mark.parametrize("chunk_size", [GRAIN, 3 * GRAIN, 16 * GRAIN])
def test_threads_and_chunks_change_no_bit(merge_on, chunk_size):
    one = merge_on(IsoC(), 1, 16 * GRAIN)
    assert merge_on(IsoC(), 2, chunk_size) == one
    assert merge_on(IsoC(), 7, chunk_size) == one
