"""TSV-M against singular value decompositions in NumPy, and the properties that it has."""

import numpy as np
import pytest

from mergegrid.engine.ops.operations import GRAIN
from mergegrid.methods.tsv_m import TsvM


def polar(vectors):
    left, singular, right = np.linalg.svd(vectors, full_matrices=False)
    kept = singular > 1e-10 * singular.max(initial=0)
    return left[:, kept] @ right[kept]


def expected_of(*deltas):
    """The definition, by direct decompositions in float64."""
    deltas = [np.asarray(delta, np.float64) for delta in deltas]
    count = min(deltas[0].shape) // len(deltas)
    left, singular, right = zip(
        *(np.linalg.svd(delta, full_matrices=False) for delta in deltas), strict=True
    )
    left = np.concatenate([vectors[:, :count] for vectors in left], axis=1)
    right = np.concatenate([vectors[:count].T for vectors in right], axis=1)
    strengths = np.concatenate([values[:count] for values in singular])
    return polar(left) * strengths @ polar(right).T


def merge_deltas(merge, *deltas, **arguments):
    """Merged delta of one matrix over a base of zeros."""
    experts = {f"e{n}": {"w": np.array(delta, np.float32)} for n, delta in enumerate(deltas)}
    base = {"w": np.zeros_like(experts["e0"]["w"])}
    return merge(base, experts, TsvM(), **arguments)["w"]


def drawn(seed, *shape):
    return (np.random.default_rng(seed).standard_normal(shape) * 1e-3).astype(np.float32)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (40, 40), (33, 7), (7, 33)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_strongest_directions_are_made_orthogonal(merge, shape, count):
    deltas = [drawn(seed, *shape) for seed in range(count)]
    expected = expected_of(*deltas)
    difference = merge_deltas(merge, *deltas) - expected
    assert np.linalg.norm(difference) < 2e-6 * np.linalg.norm(expected)


def test_a_decomposition_that_does_not_converge_is_that_of_the_transpose(merge, monkeypatch):
    """Some builds of LAPACK fail on matrices with hundreds of equal singular values."""
    # Of equal experts, because vectors far from dependent need no decomposition.
    deltas, svd = [drawn(1, 20, 12)] * 2, np.linalg.svd
    expected = merge_deltas(merge, *deltas)
    transposed = []

    def failing(matrix, **arguments):
        if matrix.flags.c_contiguous:
            raise np.linalg.LinAlgError("SVD did not converge")
        transposed.append(matrix.shape)
        return svd(matrix, **arguments)

    monkeypatch.setattr(np.linalg, "svd", failing)
    np.testing.assert_allclose(merge_deltas(merge, *deltas), expected, atol=1e-9)
    assert len(transposed) == 2


def test_vectors_get_the_mean_of_the_deltas(merge):
    base, experts = {"b": drawn(0, 9)}, {name: {"b": drawn(ord(name), 9)} for name in "xyz"}
    merged = merge(base, experts, TsvM(coefficient=0.5))
    mean = sum(expert["b"] - base["b"] for expert in experts.values()) / 3
    np.testing.assert_allclose(merged["b"], base["b"] + 0.5 * mean, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([np.diag([2, 1]), np.diag([0, 3])], np.diag([2, 3])),
        (
            [[[2, 0], [0, 0]], [[1.5, 1.5], [1.5, 1.5]]],
            [[2.146447, 0.353553], [0.353553, 2.853553]],
        ),
        # More experts than rows: nothing is left of any.
        ([[[1, 2, 3]], [[4, 5, 6]]], [[0, 0, 0]]),
        ([np.zeros((4, 4)), np.zeros((4, 4))], np.zeros((4, 4))),
        # An expert that did not change the matrix takes the place of none.
        ([np.diag([3, 2, 1, 0.5]), np.zeros((4, 4))], np.diag([3, 2, 0, 0])),
    ],
)
def test_worked_examples(merge, deltas, expected):
    np.testing.assert_allclose(merge_deltas(merge, *deltas), expected, atol=2e-6)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_one_expert_is_returned_and_equal_experts_cut_to_their_share_of_the_rank(merge, shape):
    delta = drawn(5, *shape)
    one = merge_deltas(merge, delta)
    np.testing.assert_allclose(one, delta, atol=1e-6 * np.abs(delta).max())
    left, singular, right = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    expected = left[:, :8] * singular[:8] @ right[:8]
    two = merge_deltas(merge, delta, delta)
    assert np.linalg.norm(two - expected) < 1e-5 * np.linalg.norm(expected)


def test_adapters_of_low_rank_in_spaces_of_their_own_are_added(merge):
    random = np.random.default_rng(6)
    left, _ = np.linalg.qr(random.standard_normal((32, 8)))
    right, _ = np.linalg.qr(random.standard_normal((24, 8)))
    deltas = [
        (left[:, part] * [3, 2, 1, 0.5] @ right[:, part].T).astype(np.float32)
        for part in (slice(4), slice(4, 8))
    ]
    np.testing.assert_allclose(merge_deltas(merge, *deltas), sum(deltas), atol=1e-5)


def test_rounding_of_adapters_that_were_merged_whole_gives_no_directions(merge):
    random = np.random.default_rng(8)
    base = (random.standard_normal((64, 48)) * 0.02).astype(np.float32)
    deltas = [
        random.standard_normal((64, 3)) @ random.standard_normal((3, 48)) * 1e-4 for _ in range(2)
    ]
    experts = {f"e{n}": {"w": (base + delta).astype(np.float32)} for n, delta in enumerate(deltas)}
    merged = merge({"w": base}, experts, TsvM())["w"] - base
    # All directions beyond the third are rounding.
    left, singular, right = zip(
        *(np.linalg.svd(delta, full_matrices=False) for delta in deltas), strict=True
    )
    strengths = np.concatenate([values[:3] for values in singular])
    expected = (
        polar(np.concatenate([vectors[:, :3] for vectors in left], axis=1))
        * strengths
        @ polar(np.concatenate([vectors[:3].T for vectors in right], axis=1)).T
    )
    assert np.linalg.norm(merged - expected) < 2e-5 * np.linalg.norm(expected)


def test_the_transpose_merges_to_the_transpose_and_twice_the_size_to_twice_the_delta(merge):
    deltas = [drawn(seed, 30, 20) for seed in range(2)]
    merged = merge_deltas(merge, *deltas)
    flipped = merge_deltas(merge, *(delta.T for delta in deltas))
    np.testing.assert_allclose(flipped.T, merged, atol=1e-8)
    assert np.array_equal(merge_deltas(merge, *(2 * delta for delta in deltas)), 2 * merged)


@pytest.mark.parametrize("chunk_size", [GRAIN, 3 * GRAIN, 16 * GRAIN])
def test_threads_and_chunks_change_no_bit(merge_on, chunk_size):
    one = merge_on(TsvM(), 1, 16 * GRAIN)
    assert merge_on(TsvM(), 2, chunk_size) == one
    assert merge_on(TsvM(), 7, chunk_size) == one
