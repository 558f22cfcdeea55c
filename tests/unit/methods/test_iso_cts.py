"""Iso-CTS against singular value decompositions in NumPy, and the properties that it has."""

import numpy as np
import pytest

from mergegrid.engine.ops.operations import GRAIN
from mergegrid.methods.iso_c import IsoC
from mergegrid.methods.iso_cts import IsoCts


def polar(vectors):
    left, singular, right = np.linalg.svd(vectors, full_matrices=False)
    kept = singular > 1e-10 * singular.max(initial=0)
    return left[:, kept] @ right[kept]


def expected_of(*deltas, common=0.8):
    """Algorithm 2 of the paper, by direct decompositions in float64."""
    deltas = [np.asarray(delta, np.float64) for delta in deltas]
    width = min(deltas[0].shape)
    number = round((width - int(common * width)) / len(deltas))
    left, singular, right = np.linalg.svd(sum(deltas), full_matrices=False)
    size = width - number * len(deltas)
    shared = left[:, :size]
    parts = [(shared, singular[:size], right[:size])]
    for delta in deltas:
        left, singular, right = np.linalg.svd(
            delta - shared @ shared.T @ delta, full_matrices=False
        )
        parts.append((left[:, :number], singular[:number], right[:number]))
    left, singular, right = zip(*parts, strict=True)
    mean = np.concatenate(singular).mean()
    return mean * polar(np.concatenate(left, axis=1)) @ polar(np.concatenate(right).T).T


def merge_deltas(merge, *deltas, method=None, **settings):
    """Merged delta of one matrix over a base of zeros."""
    experts = {f"e{n}": {"w": np.array(delta, np.float32)} for n, delta in enumerate(deltas)}
    base = {"w": np.zeros_like(experts["e0"]["w"])}
    return merge(base, experts, method or IsoCts(**settings))["w"]


def drawn(seed, *shape):
    return (np.random.default_rng(seed).standard_normal(shape) * 1e-3).astype(np.float32)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (40, 40), (33, 7)])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("common", [0.5, 0.8])
def test_common_and_specific_directions_get_equal_strength(merge, shape, count, common):
    deltas = [drawn(seed, *shape) for seed in range(count)]
    expected = expected_of(*deltas, common=common)
    difference = merge_deltas(merge, *deltas, common=common) - expected
    assert np.linalg.norm(difference) < 2e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("deltas", "common", "expected"),
    [
        # Common 6 and 5, specific 2 and 3; Iso-C has 3.75.
        ([np.diag([6, 0, 2, 0]), np.diag([0, 5, -1, 3])], 0.5, 4 * np.eye(4)),
        # What no expert changes stays unchanged; the mean is over four values.
        ([np.diag([6, 0, 2, 0]), np.diag([0, 5, 2, 0])], 0.5, np.diag([3.75, 3.75, 3.75, 0])),
        # A direction of two experts with opposite signs is lost.
        ([np.diag([6, 0, 2, 0]), np.diag([0, 5, -2, 0])], 0.5, np.diag([3.75, 3.75, 0, 0])),
        ([np.zeros((2, 3)), np.zeros((2, 3))], 0.5, np.zeros((2, 3))),
        # More experts than rows.
        ([np.eye(2)] * 5, 0.0, np.eye(2) * 5),
    ],
)
def test_worked_examples(merge, deltas, common, expected):
    np.testing.assert_allclose(merge_deltas(merge, *deltas, common=common), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_layers_that_are_stored_transposed_merge_as_others(merge, shape):
    """GPT-2 stores linear layers [in, out], others with its names do not."""
    deltas = [drawn(seed, *shape) for seed in range(2)]
    expected = merge_deltas(merge, *deltas)
    name, widening = "h.0.attn.c_proj.weight", "h.0.attn.c_attn.weight"
    for unchanged, of_gpt2 in ((np.zeros((4, 12)), True), (np.zeros((12, 4)), False)):
        experts = {
            f"e{n}": {name: delta.T.copy(), widening: unchanged} for n, delta in enumerate(deltas)
        }
        base = {name: np.zeros(shape[::-1]), widening: unchanged}
        merged = merge(base, experts, IsoCts())[name]
        assert np.allclose(merged.T, expected, atol=1e-8) == of_gpt2


def test_vectors_get_the_mean_of_the_deltas(merge):
    base, experts = {"b": drawn(0, 9)}, {name: {"b": drawn(ord(name), 9)} for name in "xyz"}
    merged = merge(base, experts, IsoCts(coefficient=0.5))
    mean = sum(expert["b"] - base["b"] for expert in experts.values()) / 3
    np.testing.assert_allclose(merged["b"], base["b"] + 0.5 * mean, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("count", "common"), [(1, 0.8), (1, 0.3), (3, 1.0), (8, 0.9)])
def test_one_expert_and_no_room_for_specific_directions_give_iso_c(merge, count, common):
    deltas = [drawn(seed, 24, 30) for seed in range(count)]
    expected = merge_deltas(merge, *deltas, method=IsoC())
    merged = merge_deltas(merge, *deltas, common=common)
    assert np.linalg.norm(merged - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
def test_deltas_of_low_rank_stay_of_low_rank_whichever_way_they_are_rounded(merge, shape):
    random = np.random.default_rng(1)
    deltas = [
        (random.standard_normal((shape[0], 3)) @ random.standard_normal((3, shape[1]))).astype("f4")
        for _ in range(2)
    ]
    others = [
        np.nextafter(delta, np.float32(9), where=random.random(shape) < 0.5, out=delta.copy())
        for delta in deltas
    ]
    one, two = merge_deltas(merge, *deltas), merge_deltas(merge, *others)
    assert np.linalg.matrix_rank(one.astype(np.float64), rtol=1e-4) == 6
    assert np.linalg.norm(one - two) < 1e-5 * np.linalg.norm(one)


def test_rotations_rotate_the_result_and_twice_the_size_is_twice_the_delta(merge):
    random = np.random.default_rng(3)
    deltas = [random.standard_normal((24, 16)) for _ in range(2)]
    left, _ = np.linalg.qr(random.standard_normal((24, 24)))
    right, _ = np.linalg.qr(random.standard_normal((16, 16)))
    merged = merge_deltas(merge, *deltas)
    rotated = merge_deltas(merge, *(left @ delta @ right for delta in deltas))
    np.testing.assert_allclose(rotated, left @ merged @ right, atol=1e-4)
    assert np.array_equal(merge_deltas(merge, *(2 * delta for delta in deltas)), 2 * merged)


@pytest.mark.parametrize("chunk_size", [GRAIN, 3 * GRAIN, 16 * GRAIN])
def test_threads_and_chunks_change_no_bit(merge_on, chunk_size):
    one = merge_on(IsoCts(), 1, 16 * GRAIN)
    assert merge_on(IsoCts(), 2, chunk_size) == one
    assert merge_on(IsoCts(), 7, chunk_size) == one


def test_an_impossible_share_is_refused():
    with pytest.raises(ValueError, match="less than or equal to 1"):
        IsoCts(common=1.1)
