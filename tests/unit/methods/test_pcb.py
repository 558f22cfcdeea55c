"""PCB against the published formula in NumPy, and what is left at its edges."""

import numpy as np
import pytest

from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.methods.pcb import Pcb

NAMES = ("chat", "code", "math")


def published(deltas, keep, outliers):
    """PCB-Merging of flat deltas [K, n] as the authors' code for language models has it."""

    def clamp(rows, low, high):
        order, size = np.sort(rows, axis=1), rows.shape[1]
        bottom, top = order[:, int(size * low)], order[:, int(size * (1 - high) - 1)]
        return np.clip(rows, bottom[:, None], top[:, None])

    def normalize(rows):
        least, most = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
        return (rows - least) / (most - least)

    magnitudes = clamp(np.abs(deltas), outliers, outliers)
    scores = np.exp(len(deltas) * normalize(magnitudes) ** 2)
    scores = scores * np.tanh(deltas * deltas.sum(axis=0))
    scale = normalize(clamp(scores, 1 - keep, 0))
    total = (np.sign(deltas) * magnitudes * scale).sum(axis=0)
    return total / np.maximum(scale.sum(axis=0), 1e-12)


def flat(tensors):
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.mark.parametrize("keep", [0.05, 0.3])
@pytest.mark.parametrize("outliers", [0, 0.01, 0.1])
def test_it_is_the_published_formula_over_the_whole_model(merge, base, experts, keep, outliers):
    merged = merge(base, experts, Pcb(coefficient=1.2, keep=keep, outliers=outliers))
    deltas = np.stack([flat(experts[name]) - flat(base) for name in NAMES]).astype(np.float64)
    expected = 1.2 * published(deltas, keep, outliers)
    assert 0.04 * expected.size < np.count_nonzero(expected) < 0.9 * expected.size
    np.testing.assert_allclose(flat(merged) - flat(base), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("method", "deltas", "expected"),
    [
        (Pcb(keep=0.75, outliers=0), [[1, -4, 1, 2], [-3, -3, 3, 2]], [0, -3.5, 3, 2]),
        # One expert keeps one element less than its share, because that at the cut weighs 0.
        (Pcb(keep=0.75, outliers=0), [[1, -4, 2, 3]], [0, -4, 0, 3]),
        (Pcb(keep=0.5, outliers=0.25), [[1, -9, 2, 3]], [0, -3, 0, 3]),
        # Equal scores weigh the same; a delta of zero and deltas against each other have none.
        (Pcb(keep=0.5, outliers=0), [[2, -2, 2, 2]], [2, -2, 2, 2]),
        (Pcb(keep=0.5), [[0, 0, 0, 0], [0, 0, 0, 0]], [0, 0, 0, 0]),
        (Pcb(keep=0.5), [[1, 2, 3, 4], [-1, -2, -3, -4]], [0, 0, 0, 0]),
    ],
)
def test_worked_examples(merge, method, deltas, expected):
    experts = {f"e{n}": {"w": np.float32(delta)} for n, delta in enumerate(deltas)}
    merged = merge({"w": np.zeros(4, np.float32)}, experts, method)
    np.testing.assert_allclose(merged["w"], expected, atol=1e-3)


def test_factors_of_single_experts_count_in_the_sum(merge, base, experts):
    zero = dict.fromkeys(NAMES, 0.0)
    parts = [merge(base, experts, Pcb(keep=0.3, coefficients=zero | {name: 1.0})) for name in NAMES]
    merged = merge(base, experts, Pcb(keep=0.3))
    for name in base:
        total = sum(part[name] - base[name] for part in parts)
        np.testing.assert_allclose(merged[name] - base[name], total, atol=1e-8)


def test_small_deltas_of_twice_the_size_merge_to_twice_the_delta(merge, base, experts):
    zero = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    deltas = {e: {n: experts[e][n] - base[n] for n in base} for e in NAMES}
    twice = {e: {n: 2 * delta for n, delta in deltas[e].items()} for e in NAMES}
    one, two = merge(zero, deltas, Pcb(keep=0.3)), merge(zero, twice, Pcb(keep=0.3))
    for name in base:
        np.testing.assert_allclose(two[name], 2 * one[name], rtol=1e-3)


@pytest.mark.parametrize(("threads", "chunk_size"), [(1, GRAIN), (2, 3 * GRAIN), (7, 16 * GRAIN)])
def test_threads_and_chunks_change_no_bit(merge, threads, chunk_size):
    random = np.random.default_rng(0)
    shapes = {"a": 5 * GRAIN + 77, "b": 1000}
    base = {n: random.standard_normal(size).astype(np.float32) for n, size in shapes.items()}
    experts = {
        name: {n: w + random.standard_normal(w.size).astype("f4") for n, w in base.items()}
        for name in NAMES
    }
    options = EngineOptions(threads=threads, chunk_size=chunk_size)
    merged = merge(base, experts, Pcb(), dtype="bfloat16", options=options)
    expected = merge(base, experts, Pcb(), dtype="bfloat16")
    assert all(merged[name].tobytes() == expected[name].tobytes() for name in base)


@pytest.mark.parametrize("settings", [{"keep": 0}, {"keep": 1.5}, {"outliers": 0.5}])
def test_impossible_shares_are_refused(settings):
    with pytest.raises(ValueError, match=r"(greater|less) than"):
        Pcb(**settings)
