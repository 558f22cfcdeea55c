"""TALL masks against NumPy, and what is left of one expert and of equal experts."""

import numpy as np
import pytest

from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import ConfigError
from mergegrid.methods.consensus import Consensus
from mergegrid.methods.tall_mask import TallMask
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.sparsifiers.tall import Tall

NAMES = ("chat", "code", "math")


def masked(deltas, thresholds):
    """Sum of the deltas that each expert keeps; the sum of all is taken in order, in float32."""
    total = (deltas[0] + deltas[1]) + deltas[2]
    kept = [
        np.where(np.abs(delta) > np.float32(threshold) * np.abs(total - delta), delta, 0)
        for delta, threshold in zip(deltas, thresholds, strict=True)
    ]
    return (kept[0] + kept[1]) + kept[2]


def test_each_expert_keeps_what_counts_beside_the_others(merge, base, experts):
    spec = Tall(threshold=0.3, thresholds={"code": 0.9})
    merged = merge(base, experts, TaskArithmetic(), spec)
    for name in base:
        deltas = [experts[expert][name] - base[name] for expert in NAMES]
        expected = base[name] + masked(deltas, (0.3, 0.9, 0.3))
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-9)
        assert not np.allclose(merged[name], base[name] + sum(deltas))


def test_worked_example(merge):
    # Masks 1 0 1 1 and 1 1 1 0; an element that no expert changes is kept by none.
    deltas = {"a": [3, 0, -1, 2], "b": [3, 4, 1, 0]}
    experts = {name: {"w": np.float32(delta)} for name, delta in deltas.items()}
    for name, kept in (("a", [3, 0, -1, 2]), ("b", [3, 4, 1, 0])):
        others = {other: 0 for other in deltas if other != name}
        method = TaskArithmetic(coefficients=others)
        merged = merge({"w": np.zeros(4, np.float32)}, experts, method, Tall(threshold=0.4))
        assert merged["w"].tolist() == kept
    strict = merge({"w": np.zeros(4)}, experts, TaskArithmetic(), Tall(threshold=1))
    assert strict["w"].tolist() == [0, 4, 0, 2]


def test_one_expert_is_returned_to_the_bit(merge, base, experts):
    merged = merge(base, experts, sparsifier=Tall(threshold=0.6), names=("math",))
    assert all(merged[name].tobytes() == experts["math"][name].tobytes() for name in base)


@pytest.mark.parametrize(("threshold", "factor"), [(0.3, 4), (0.4, 0)])
def test_equal_experts_keep_all_or_nothing(merge, base, experts, threshold, factor):
    copies = {f"copy{number}": experts["math"] for number in range(4)}
    merged = merge(base, copies, TaskArithmetic(), Tall(threshold=threshold))
    for name in base:
        expected = base[name] + factor * (experts["math"][name] - base[name])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("threads", "chunk_size"), [(1, GRAIN), (2, 3 * GRAIN), (7, 16 * GRAIN)])
def test_threads_and_chunks_change_no_bit(merge, threads, chunk_size):
    random = np.random.default_rng(0)
    base = {"w": np.zeros(5 * GRAIN + 77, np.float32)}
    experts = {name: {"w": random.standard_normal(base["w"].size).astype("f4")} for name in NAMES}
    options = EngineOptions(threads=threads, chunk_size=chunk_size)
    merged = merge(base, experts, TaskArithmetic(), Tall(), options=options)
    expected = masked([experts[name]["w"] for name in NAMES], [0.4] * 3)
    assert np.array_equal(merged["w"], expected)


@pytest.mark.parametrize("arithmetic", ["exact", "reference"])
def test_the_published_code_rounds_the_others_like_weights(merge, arithmetic):
    """Two equal experts, each of which is all of the other: a tie, but for that rounding."""
    random = np.random.default_rng(0)
    base, weight = random.normal(0, 1, (2, 20_000)).astype("f4")
    delta = weight - base
    total = delta + delta
    # As in the published code, with weights instead of deltas.
    reference = np.abs(base - weight) > np.abs(weight - (base + total))
    assert 0.1 < reference.mean() < 0.5
    needed = reference if arithmetic == "reference" else np.zeros(base.size, bool)
    start, models = {"w": base}, {name: {"w": weight} for name in ("code", "math")}
    alone = TaskArithmetic(coefficients={"code": 1, "math": 0})
    merged = merge(start, models, alone, Tall(threshold=1, arithmetic=arithmetic))
    assert np.array_equal(merged["w"], base + np.where(needed, delta, 0))
    for method in (TallMask(expert="code", threshold=1.0), Consensus(threshold=1.0)):
        merged = merge(start, models, method.model_copy(update={"arithmetic": arithmetic}))
        assert np.array_equal(merged["w"], base + np.where(needed, total, 0))


def test_a_threshold_of_a_stranger_and_a_negative_one_are_refused(merge, base, experts):
    with pytest.raises(ConfigError, match=r"tall.thresholds refers to law, which is not"):
        merge(base, experts, sparsifier=Tall(thresholds={"law": 1}))
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Tall(threshold=-0.1)
