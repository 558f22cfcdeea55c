"""KnOTS against singular value decompositions in NumPy, and the properties that it has."""

import numpy as np
import pytest

from mergegrid.engine.ops.operations import GRAIN
from mergegrid.methods import matrices
from mergegrid.methods.knots import Knots
from mergegrid.sparsifiers.dare import Dare

SHAPES = {"tall.weight": (90, 24), "square.weight": (20, 20), "wide.weight": (20, 30)}


def in_common_basis(deltas):
    """The basis of the outputs, and deltas in it, by a decomposition in float64."""
    left, singular, _ = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    basis = left[:, singular > 1e-5 * singular.max(initial=0)]
    return basis, [basis.T @ delta for delta in deltas]


def ties(parts, cuts):
    trimmed = [np.where(np.abs(part) > cut, part, 0) for part, cut in zip(parts, cuts, strict=True)]
    agrees = [part * sum(trimmed) > 0 for part in trimmed]
    total = sum(part * agree for part, agree in zip(trimmed, agrees, strict=True))
    return total / np.maximum(sum(agrees), 1)


def expected_of(deltas, trim, scope):
    """The merged delta of each matrix, from lists of deltas by name."""
    bases = {name: in_common_basis([d.astype(np.float64) for d in deltas[name]]) for name in deltas}
    count = len(next(iter(deltas.values())))

    def cut(expert, names):
        parts = [np.abs(bases[name][1][expert]).ravel() for name in names]
        ordered = np.sort(np.concatenate(parts))
        rank = round(trim * ordered.size)
        # The cut itself is rounded to float32 on the way.
        return ordered[rank - 1] * (1 + 1e-6) if rank else 0.0

    merged = {}
    for name, (basis, parts) in bases.items():
        names = list(deltas) if scope == "global" else [name]
        merged[name] = basis @ ties(parts, [cut(expert, names) for expert in range(count)])
    return merged


def drawn(seed, *shape):
    return (np.random.default_rng(seed).standard_normal(shape) * 1e-3).astype(np.float32)


def merge_deltas(merge, *deltas, sparsifier=None, **settings):
    """Merged delta of one matrix over a base of zeros."""
    experts = {f"e{n}": {"w": np.array(delta, np.float32)} for n, delta in enumerate(deltas)}
    base = {"w": np.zeros_like(experts["e0"]["w"])}
    return merge(base, experts, Knots(**settings), sparsifier)["w"]


@pytest.mark.parametrize("trim", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("scope", ["global", "per_tensor"])
@pytest.mark.parametrize("count", [2, 3])
def test_it_is_ties_in_the_basis_of_all_deltas(merge, trim, scope, count):
    scales = {"tall.weight": 1, "square.weight": 2, "wide.weight": 5}
    deltas = {
        name: [scales[name] * drawn(seed + len(name), *shape) for seed in range(count)]
        for name, shape in SHAPES.items()
    }
    base = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    experts = {f"e{n}": {name: deltas[name][n] for name in deltas} for n in range(count)}
    merged = merge(base, experts, Knots(trim=trim, scope=scope, coefficient=0.5))
    for name, delta in expected_of(deltas, trim, scope).items():
        assert np.linalg.norm(merged[name] - 0.5 * delta) < 3e-6 * np.linalg.norm(delta)


def test_matrices_may_be_larger_than_what_is_multiplied_at_a_time(merge, monkeypatch):
    deltas = [drawn(seed, 40, 12) for seed in range(2)]
    expected = merge_deltas(merge, *deltas)
    monkeypatch.setattr(matrices, "FOLD_CHUNK", 90)
    np.testing.assert_allclose(merge_deltas(merge, *deltas), expected, atol=1e-9)


@pytest.mark.parametrize("scope", ["global", "per_tensor"])
@pytest.mark.parametrize("shape", [(30, 20), (90, 20), (20, 90)])
def test_layers_that_are_stored_transposed_merge_as_others(merge, scope, shape):
    """GPT-2 stores linear layers [in, out], others with its names do not."""
    deltas = [drawn(seed, *shape) for seed in range(2)]
    expected = merge_deltas(merge, *deltas, scope=scope)
    name, widening = "h.0.attn.c_proj.weight", "h.0.attn.c_attn.weight"
    for unchanged, of_gpt2 in ((np.zeros((4, 12)), True), (np.zeros((12, 4)), False)):
        experts = {
            f"e{n}": {name: delta.T.copy(), widening: unchanged} for n, delta in enumerate(deltas)
        }
        base = {name: np.zeros(shape[::-1]), widening: unchanged}
        merged = merge(base, experts, Knots(scope=scope))[name]
        assert np.allclose(merged.T, expected, atol=1e-8) == of_gpt2


def test_worked_example(merge):
    merged = merge_deltas(merge, [[2], [0]], [[1.5], [2.5]], trim=0)
    np.testing.assert_allclose(merged, [[2.5], [0.5]], atol=1e-6)


def test_a_trim_drops_the_smallest_elements_in_the_basis(merge):
    """Axes of different strength are the basis, so that elements are the deltas themselves."""
    deltas = [np.diag([6, 1, 2, 3]), np.diag([4, 2, -1, 0])]
    merged = merge_deltas(merge, *deltas, trim=14 / 16)
    np.testing.assert_allclose(merged, np.diag([5, 2, 0, 3]), atol=1e-5)


def test_other_tensors_get_the_mean_of_the_deltas(merge):
    shapes = {"model.embed_tokens.weight": (9, 4), "lm_head.weight": (9, 4), "norm.weight": (4,)}
    base = {name: drawn(0, *shape) for name, shape in shapes.items()}
    experts = {e: {n: drawn(ord(e), *shape) for n, shape in shapes.items()} for e in "xyz"}
    merged = merge(base, experts, Knots(coefficient=0.5))
    for name in base:
        mean = sum(expert[name] - base[name] for expert in experts.values()) / 3
        np.testing.assert_allclose(merged[name], base[name] + 0.5 * mean, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
@pytest.mark.parametrize("count", [1, 3])
def test_one_expert_and_equal_experts_are_returned_without_a_trim(merge, shape, count):
    delta = drawn(5, *shape)
    merged = merge_deltas(merge, *[delta] * count, trim=0)
    np.testing.assert_allclose(merged, delta, atol=1e-6 * np.abs(delta).max())


@pytest.mark.parametrize("columns", [40, 12])
@pytest.mark.parametrize("scope", ["global", "per_tensor"])
def test_adapters_stay_in_the_space_of_their_outputs(merge, scope, columns):
    random = np.random.default_rng(6)
    left = random.standard_normal((32, 6))
    deltas = [
        (left[:, part] @ random.standard_normal((3, columns))).astype(np.float32)
        for part in (slice(3), slice(3, 6))
    ]
    merged = merge_deltas(merge, *deltas, trim=0.5, scope=scope)
    assert np.linalg.matrix_rank(merged.astype(np.float64), rtol=1e-4) == 6
    # Elements of null directions would be the smallest, and nothing else would be trimmed.
    expected = expected_of({"w": deltas}, 0.5, scope)["w"]
    assert np.linalg.norm(merged - expected) < 1e-5 * np.linalg.norm(expected)


def test_deltas_of_zero_and_an_unchanged_expert_merge(merge):
    zero, delta = np.zeros((6, 5)), drawn(1, 6, 5)
    assert not merge_deltas(merge, zero, zero).any()
    merged = merge_deltas(merge, delta, zero, trim=0)
    np.testing.assert_allclose(merged, delta, atol=1e-8)


def test_deltas_of_twice_the_size_merge_to_twice_the_delta_in_any_order(merge):
    deltas = [drawn(seed, 20, 30) for seed in range(3)]
    one = merge_deltas(merge, *deltas)
    assert np.array_equal(merge_deltas(merge, *(2 * delta for delta in deltas)), 2 * one)
    np.testing.assert_allclose(merge_deltas(merge, *deltas[::-1]), one, atol=1e-8)


def test_behind_a_sparsifier_it_merges_what_is_left(merge):
    deltas = [drawn(seed, 20, 30) for seed in range(2)]
    kept = [
        merge({"w": np.zeros((20, 30))}, {f"e{n}": {"w": delta}}, sparsifier=Dare(rate=0.5))["w"]
        for n, delta in enumerate(deltas)
    ]
    merged = merge_deltas(merge, *deltas, sparsifier=Dare(rate=0.5))
    np.testing.assert_allclose(merged, merge_deltas(merge, *kept), atol=1e-9)


@pytest.mark.parametrize("chunk_size", [GRAIN, 3 * GRAIN, 16 * GRAIN])
def test_threads_and_chunks_change_no_bit(merge_on, chunk_size):
    one = merge_on(Knots(), 1, 16 * GRAIN)
    assert merge_on(Knots(), 2, chunk_size) == one
    assert merge_on(Knots(), 7, chunk_size) == one


@pytest.mark.parametrize("trim", [-0.1, 1.1])
def test_an_impossible_share_is_refused(trim):
    with pytest.raises(ValueError, match=r"(greater|less) than or equal"):
        Knots(trim=trim)
