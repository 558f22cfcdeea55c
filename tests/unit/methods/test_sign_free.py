"""Consensus, MagMax and RAM against NumPy, worked examples and the properties that they have."""

import numpy as np
import pytest

from mergegrid.errors import ConfigError
from mergegrid.methods.consensus import Consensus
from mergegrid.methods.magmax import MagMax
from mergegrid.methods.ram import Ram

NAMES = ("chat", "code", "math")
# fmt: off
EXAMPLES = [
    (Consensus(threshold=0.4), [[3, 0, -1, 2], [3, 4, 1, 0]], [6, 0, 0, 0]),
    (Consensus(threshold=0.4, coefficient=0.5), [[3, 0, -1, 2], [3, 4, 1, 0]], [3, 0, 0, 0]),
    (Consensus(threshold=0.4, agreement=1), [[3, 0, -1, 2], [3, 4, 1, 0]], [6, 4, 0, 2]),
    # Signs are not looked at: both are larger than a fifth of the other.
    (Consensus(threshold=0.2), [[3], [-1]], [2]),
    (Consensus(threshold=0.5, thresholds={"b": 0}), [[3], [-1]], [2]),
    (MagMax(), [[3, 0, 2], [1, 4, 0]], [3, 4, 2]),
    (MagMax(), [[2, -2], [-2, 2]], [2, -2]),
    (MagMax(coefficient=0.5), [[3, 0, 2], [1, 4, 0]], [1.5, 2, 1]),
    (Ram(), [[3, 0, 2], [1, 4, 0]], [2, 4, 2]),
    (Ram(threshold=1.5), [[3, 0, 2], [1, 4, 0]], [3, 4, 2]),
    # The published code's second rule at 1.05: half of what each changes is shared.
    (Ram(boost=1.05), [[3, 0, 2], [1, 4, 0]], [2, 4.2, 2.1]),
    (Ram(boost=1.5), [[1, 0, 0], [0, 0, 2]], [1, 0, 2]),
    (Ram(boost=1.5), [[1, 2], [3, 2]], [2, 2]),
]
# fmt: on


def deltas_of(base, experts):
    return {
        name: np.stack([experts[expert][name] - base[name] for expert in NAMES]) for name in base
    }


def copies(expert, count):
    return {f"copy{number}": expert for number in range(count)}


@pytest.mark.parametrize(("method", "deltas", "expected"), EXAMPLES)
def test_worked_examples(merge, method, deltas, expected):
    experts = {
        name: {"w": np.array(delta, np.float32)} for name, delta in zip("ab", deltas, strict=True)
    }
    merged = merge({"w": np.zeros(len(expected), np.float32)}, experts, method)
    np.testing.assert_allclose(merged["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("agreement", [1, 2, 3])
def test_consensus_keeps_the_sum_where_enough_experts_need_it(merge, base, experts, agreement):
    merged = merge(base, experts, Consensus(coefficient=0.7, agreement=agreement))
    for name, deltas in deltas_of(base, experts).items():
        total = (deltas[0] + deltas[1]) + deltas[2]
        needed = np.abs(deltas) > np.float32(0.4) * np.abs(total - deltas)
        kept = np.where(needed.sum(axis=0) >= agreement, total, 0)
        np.testing.assert_allclose(merged[name], base[name] + 0.7 * kept, rtol=1e-6, atol=1e-8)


def test_consensus_of_one_expert_at_a_threshold_of_0_is_the_sum(merge, base, experts):
    merged = merge(base, experts, Consensus(threshold=0, agreement=1))
    for name, deltas in deltas_of(base, experts).items():
        np.testing.assert_allclose(merged[name], base[name] + deltas.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize(("threshold", "factor"), [(0.3, 4), (0.4, 0)])
def test_consensus_of_equal_experts_is_all_or_nothing(merge, base, experts, threshold, factor):
    """Of four equal experts, each needs an element if its delta exceeds 3 thresholds of it."""
    merged = merge(base, copies(experts["math"], 4), Consensus(threshold=threshold))
    for name in base:
        expected = base[name] + factor * (experts["math"][name] - base[name])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-8)


def test_an_agreement_of_more_experts_than_there_are_is_refused(merge, base, experts):
    with pytest.raises(ConfigError, match=r"agreement = 4, .* 3 experts .* lower it"):
        merge(base, experts, Consensus(agreement=4))


def test_magmax_takes_the_largest_delta(merge, base, experts):
    merged = merge(base, experts, MagMax())
    for name, deltas in deltas_of(base, experts).items():
        largest = np.take_along_axis(deltas, np.abs(deltas).argmax(axis=0)[None], axis=0)[0]
        assert np.array_equal(merged[name], base[name] + largest)


@pytest.mark.parametrize("threshold", [0.0, 1e-3])
@pytest.mark.parametrize("boost", [1.0, 1.3])
def test_ram_averages_over_the_experts_that_change_an_element(
    merge, base, experts, threshold, boost
):
    # Of real models of one base, many elements are equal to the base.
    kept = {
        expert: {
            name: np.where(np.arange(tensor.size).reshape(tensor.shape) % (2 + place), tensor, 0)
            + np.where(np.arange(tensor.size).reshape(tensor.shape) % (2 + place), 0, base[name])
            for name, tensor in experts[expert].items()
        }
        for place, expert in enumerate(NAMES)
    }
    merged = merge(base, kept, Ram(threshold=threshold, boost=boost))
    deltas = deltas_of(base, kept)
    changes = {name: np.abs(each) > np.float32(threshold) for name, each in deltas.items()}
    shared = sum((each & (each.sum(0) > 1)).reshape(3, -1).sum(1) for each in changes.values())
    changed = sum(each.reshape(3, -1).sum(1) for each in changes.values())
    with np.errstate(divide="ignore"):
        factors = 1 + (boost - 1) * np.minimum(1, shared / (changed - shared))
    for name, each in changes.items():
        count = each.sum(axis=0)
        total = (deltas[name] * each).sum(axis=0)
        alone = (deltas[name] * each * factors.reshape(3, *[1] * total.ndim)).sum(axis=0)
        expected = base[name] + np.where(count > 1, total / np.maximum(count, 1), alone)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", [MagMax(), Ram(), Ram(boost=1.2)])
@pytest.mark.parametrize("count", [1, 3])
def test_one_expert_and_equal_experts_are_returned(merge, base, experts, method, count):
    merged = merge(base, copies(experts["math"], count), method)
    for name in base:
        np.testing.assert_allclose(merged[name], experts["math"][name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", [Consensus(), MagMax()])
def test_deltas_of_twice_the_size_merge_to_twice_the_delta(merge, base, experts, method):
    zero = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    deltas = {e: {n: experts[e][n] - base[n] for n in base} for e in NAMES}
    twice = {expert: {n: 2 * delta for n, delta in deltas[expert].items()} for expert in NAMES}
    one, two = merge(zero, deltas, method), merge(zero, twice, method)
    assert all(np.array_equal(2 * one[name], two[name]) for name in base)
