"""SCE against its three steps in NumPy, and a table computed by hand."""

import numpy as np
import pytest

from mergegrid.methods.sce import Sce
from mergegrid.sparsifiers.dare import Dare

NAMES = ("chat", "code", "math")


def by_its_three_steps(deltas, select):
    """Deltas [experts, elements] merged: select, calculate, erase (arXiv 2408.07990, 3.2)."""
    variance = deltas.var(axis=0)
    kept = np.argsort(-variance, kind="stable")[: round(select * variance.size)]
    selected = np.zeros_like(deltas)
    selected[:, kept] = deltas[:, kept]
    energy = (selected.astype(np.float64) ** 2).sum(axis=1)
    weights = energy / energy.sum()
    agree = (np.sign(selected) == np.sign(selected.sum(axis=0))) & (selected != 0)
    mass = (weights[:, None] * agree).sum(axis=0)
    return (weights[:, None] * np.where(agree, selected, 0)).sum(axis=0) / np.where(mass, mass, 1)


@pytest.mark.parametrize("select", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("names", [NAMES, NAMES[:2]], ids=["three", "two"])
def test_it_equals_the_papers_three_steps(merge, base, experts, select, names):
    merged = merge(base, experts, Sce(select=select), names=names)
    for name in base:
        deltas = np.stack([experts[each][name] - base[name] for each in names])
        change = by_its_three_steps(deltas.reshape(len(names), -1), select)
        expected = base[name] + change.reshape(base[name].shape)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-8)


def test_it_merges_what_a_sparsifier_leaves(merge, sparsify, base, experts):
    spec = Dare(rate=0.3)
    left = [sparsify(spec, base, experts[name], name)[0] for name in NAMES]
    merged = merge(base, experts, Sce(), spec)
    for name in base:
        deltas = np.stack([each[name] for each in left])
        change = by_its_three_steps(deltas.reshape(3, -1), 1.0)
        expected = base[name] + change.reshape(base[name].shape)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-8)


def test_a_4_by_4_table_computed_by_hand(merge):
    one = np.array([[6, -1, 1, 2], [1, 1, -4, 0], [1, 2, 1, 1], [0, 3, 1, -1]]) * 1.0
    two = np.array([[-2, 0, 1, 1], [1, 2, 3, 1], [0, 2, 2, 1], [0, 9, 1, 4]]) * 1.0
    # A quarter is selected, four elements, where the two differ most: by 8, 7, 6 and 5. Their
    # squares sum to 36 + 16 + 9 + 1 = 62 and 4 + 9 + 81 + 16 = 110.
    share = 110 / 172
    expected = np.zeros((4, 4))
    expected[0, 0] = 6  # 6 - 2 > 0: only one agrees.
    expected[1, 2] = -4  # -4 + 3 < 0: the same.
    expected[3, 1] = 3 * (1 - share) + 9 * share  # Both agree.
    expected[3, 3] = 4  # -1 + 4 > 0: only two agrees.
    merged = merge({"w": 0 * one}, {"a": {"w": one}, "b": {"w": two}}, Sce(select=0.25))
    np.testing.assert_allclose(merged["w"], expected, rtol=1e-6)


def test_sums_of_zero_add_nothing(merge):
    pair = {"a": {"w": np.array([2.0, 1.0])}, "b": {"w": np.array([-2.0, 3.0])}}
    merged = merge({"w": np.zeros(2)}, pair, Sce())
    assert merged["w"].tolist() == [0.0, pytest.approx((1 * 5 + 3 * 13) / 18)]


def test_unchanged_experts_give_the_base_to_the_bit(merge, base):
    merged = merge(base, {"a": base, "b": base}, Sce(select=0.5))
    assert all(merged[name].tobytes() == base[name].tobytes() for name in base)


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("select", [0.3, 1.0])
def test_the_arithmetic_of_mergekit_selects_and_weighs_as_its_code_does(merge, select, scale):
    random = np.random.default_rng(0)
    deltas = {name: random.standard_normal(1000) * scale for name in NAMES}
    for delta in deltas.values():
        delta[:500] = 0
    merged = merge(
        {"w": np.zeros(1000)},
        {name: {"w": delta} for name, delta in deltas.items()},
        Sce(select=select, arithmetic="mergekit"),
        names=NAMES,
    )
    # mergekit.merge_methods.sce
    stacked = np.stack([deltas[name] for name in NAMES]).astype(np.float32)
    variance = stacked.var(axis=0)
    if select < 1:
        kept = np.argsort(-variance)[: int(np.count_nonzero(variance) * select)]
        stacked[:, np.setdiff1d(np.arange(1000), kept)] = 0
    weights = (stacked**2).mean(axis=1)
    weights = np.ones(3) / 3 if weights.sum() < 1e-6 else weights / weights.sum()
    sign = np.where(stacked.sum(axis=0) >= 0, 1, -1)
    erased = weights[:, None] * (np.sign(stacked) == sign)
    expected = (stacked * erased).sum(axis=0) / np.maximum(erased.sum(axis=0), 1e-6)
    assert (scale < 1) == bool((weights == 1 / 3).all())
    np.testing.assert_allclose(merged["w"], expected, rtol=1e-5, atol=1e-9)
