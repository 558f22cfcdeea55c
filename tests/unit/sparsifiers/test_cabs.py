"""CABS against NumPy, the worked example, and the places that experts take from each other."""

from itertools import permutations

import numpy as np
import pytest

from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import ConfigError
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.cabs import Cabs

NAMES = ("chat", "code", "math")


def chosen(deltas, order, n, m):
    """What each expert keeps, block by block, in plain Python."""
    flat = {name: delta.ravel() for name, delta in deltas.items()}
    size = next(iter(flat.values())).size
    kept = {name: np.zeros(size, np.float32) for name in flat}
    for start in range(0, size, m):
        free = set(range(start, min(start + m, size)))
        for name in order:
            values = flat[name]
            ranked = sorted((-abs(values[i]), i) for i in free if values[i])
            for _, i in ranked[:n]:
                kept[name][i] = values[i]
                free.remove(i)
    return kept


@pytest.mark.parametrize("order", [(), *permutations(NAMES)])
@pytest.mark.parametrize(("n", "m"), [(1, 4), (3, 16), (8, 8), (2, 64)])
def test_experts_take_the_largest_places_that_are_free_in_turn(merge, base, experts, order, n, m):
    merged = merge(base, experts, TaskArithmetic(), Cabs(n=n, m=m, order=order))
    for name in base:
        deltas = {expert: experts[expert][name] - base[name] for expert in NAMES}
        kept = chosen(deltas, order or NAMES, n, m)
        # At most one expert has a place, so the sum is exact.
        assert (sum(values != 0 for values in kept.values()) <= 1).all()
        expected = base[name] + sum(kept.values()).reshape(base[name].shape)
        assert np.array_equal(merged[name], expected)


@pytest.mark.parametrize(
    ("order", "expected"), [(("a", "b"), [4, 6, 7, 3]), (("b", "a"), [4, 6, 2, 8])]
)
def test_worked_example(merge, order, expected):
    experts = {"a": {"w": np.float32([4, 1, 2, 3])}, "b": {"w": np.float32([5, 6, 7, 8])}}
    spec = Cabs(n=1, m=2, order=order)
    merged = merge({"w": np.zeros(4, np.float32)}, experts, TaskArithmetic(), spec)
    assert merged["w"].tolist() == expected


def test_one_expert_that_keeps_all_is_returned_and_leaves_nothing_to_others(merge, base, experts):
    spec = Cabs(n=8, m=8)
    for names in (("math",), NAMES):
        merged = merge(base, experts, TaskArithmetic(), spec, names)
        first = experts[names[0]]
        assert all(merged[name].tobytes() == first[name].tobytes() for name in base)


def test_deltas_of_zero_take_no_place(merge):
    experts = {"a": {"w": np.float32([5, 0, 0, 0])}, "b": {"w": np.float32([1, 2, 3, 4])}}
    spec = Cabs(n=3, m=4)
    merged = merge({"w": np.zeros(4, np.float32)}, experts, TaskArithmetic(), spec)
    assert merged["w"].tolist() == [5, 2, 3, 4]


@pytest.mark.parametrize(("threads", "chunk_size"), [(1, GRAIN), (2, 3 * GRAIN), (7, 16 * GRAIN)])
def test_threads_and_chunks_change_no_bit(merge, threads, chunk_size):
    random = np.random.default_rng(0)
    base = {"w": random.standard_normal(5 * GRAIN + 77).astype(np.float32)}
    experts = {
        name: {"w": base["w"] + random.standard_normal(base["w"].size).astype(np.float32)}
        for name in NAMES
    }
    spec, options = Cabs(n=32, m=256), EngineOptions(threads=threads, chunk_size=chunk_size)
    merged = merge(base, experts, Ties(trim=0), spec, options=options)
    kept = chosen({name: each["w"] - base["w"] for name, each in experts.items()}, NAMES, 32, 256)
    assert np.array_equal(merged["w"], base["w"] + sum(kept.values()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 5, "m": 4}, "n = 5 exceeds m = 4"),
        ({"n": 1, "m": 12}, "12 is not a power of two"),
    ],
)
def test_impossible_blocks_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Cabs(**settings)


def test_an_order_of_other_experts_is_refused(merge, base, experts):
    with pytest.raises(ConfigError, match=r"cabs.order is math, code, but .* chat, code, math"):
        merge(base, experts, TaskArithmetic(), Cabs(order=("math", "code")))
