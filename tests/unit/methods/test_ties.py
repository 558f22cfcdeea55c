"""TIES against the paper's three steps, the reference code, and a table computed by hand."""

import numpy as np
import pytest

from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude

NAMES = ("math", "code", "chat")
TRIMS = [0.0, 0.5, 0.8, 1.0]


def elect(stacked, undecided=0.0):
    """Mean of what has the sign of the sum."""
    sign = np.sign(stacked.sum(axis=0))
    sign = np.where(sign == 0, undecided, sign)
    agree = (np.sign(stacked) == sign) & (stacked != 0)
    return np.where(agree, stacked, 0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)


def paper(deltas, trim):
    """TIES of flat arrays, straight from arXiv 2306.01708, section 4."""
    stacked = np.stack(deltas)
    for row in stacked:
        row[np.argsort(np.abs(row), kind="stable")[: round(trim * row.size)]] = 0
    return elect(stacked)


def reference(deltas, trim):
    """TIES of flat arrays as the reference code computes it: one threshold, one majority."""
    stacked = np.stack(deltas)
    for row in stacked:
        rank = int(row.size * trim)
        if rank:
            row[np.abs(row) < np.sort(np.abs(row))[rank - 1]] = 0
    return elect(stacked, np.sign(np.sign(stacked.sum(axis=0)).sum()))


def flat(tensors):
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def deltas_of(base, experts):
    return [flat(experts[name]) - flat(base) for name in sorted(experts)]


@pytest.fixture(scope="module")
def integers():
    """Models of small whole numbers: with ties at thresholds, and sums of zero."""
    random = np.random.default_rng(0)
    shapes = {"a": (30, 20), "b": (50,)}
    base = {name: np.zeros(shape) for name, shape in shapes.items()}
    experts = {
        each: {name: random.integers(-3, 4, shape) * 1.0 for name, shape in shapes.items()}
        for each in ("x", "y")
    }
    return base, experts


@pytest.mark.parametrize("trim", TRIMS)
@pytest.mark.parametrize("coefficient", [0.5, 1.0])
def test_per_tensor_it_equals_the_papers_three_steps(merge, base, experts, trim, coefficient):
    merged = merge(base, experts, Ties(trim=trim, coefficient=coefficient, scope="per_tensor"))
    for name in base:
        some = {each: {name: experts[each][name]} for each in NAMES}
        change = paper(deltas_of({name: base[name]}, some), trim)
        expected = base[name].ravel() + coefficient * change
        np.testing.assert_allclose(merged[name].ravel(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("trim", TRIMS)
def test_globally_it_equals_the_papers_three_steps_on_the_flat_model(merge, base, experts, trim):
    merged = merge(base, experts, Ties(trim=trim, scope="global"))
    expected = flat(base) + paper(deltas_of(base, experts), trim)
    np.testing.assert_allclose(flat(merged), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("trim", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("coefficient", [0.5, 1.0])
def test_the_reference_arithmetic_equals_the_reference_code(merge, integers, trim, coefficient):
    base, experts = integers
    spec = Ties(trim=trim, coefficient=coefficient, arithmetic="reference")
    expected = coefficient * reference(deltas_of(base, experts), trim)
    np.testing.assert_allclose(flat(merge(base, experts, spec)), expected, rtol=1e-6)
    exact = flat(merge(base, experts, spec.model_copy(update={"arithmetic": "exact"})))
    assert (exact != expected).any()


def test_the_reference_arithmetic_works_per_tensor(merge, integers):
    base, experts = integers
    spec = Ties(trim=0.5, scope="per_tensor", arithmetic="reference")
    merged = merge(base, experts, spec)
    parts = [
        [np.where(abs(x) >= np.sort(abs(x))[int(x.size * 0.5) - 1], x, 0) for x in each]
        for each in ([experts[name][key].ravel() for name in ("x", "y")] for key in ("a", "b"))
    ]
    trimmed = np.concatenate([np.stack(part) for part in parts], axis=1)
    expected = elect(trimmed, np.sign(np.sign(trimmed.sum(axis=0)).sum()))
    np.testing.assert_allclose(flat(merged), expected, rtol=1e-6)


def test_the_reference_keeps_all_ties_at_the_threshold(merge):
    expert = np.array([1.0, 1, 1, 1, 2])
    left = [
        merge({"w": 0 * expert}, {"a": {"w": expert}}, Ties(trim=0.4, arithmetic=arithmetic))["w"]
        for arithmetic in ("reference", "exact")
    ]
    assert [each.tolist() for each in left] == [[1, 1, 1, 1, 2], [1, 1, 0, 0, 2]]


@pytest.mark.parametrize("most", [1, -1])
def test_the_reference_settles_a_sum_of_zero_by_the_sign_of_most_parameters(merge, most):
    one, other = most * np.array([3.0, 1, 1, -2]), most * np.array([-3.0, 1, 1, 1])
    # Without a trim sums are 0, 2, 2, -1: most are of the first sign.
    pair = {"a": {"w": one}, "b": {"w": other}}
    for arithmetic, first in (("reference", 3), ("exact", 0)):
        merged = merge({"w": np.zeros(4)}, pair, Ties(trim=0, arithmetic=arithmetic))
        assert (most * merged["w"]).tolist() == [first, 1, 1, -2]


def test_recipes_of_one_pass_settle_sums_of_zero_each_by_its_own_majority(
    open_engine, stream, recipe_of
):
    # Whole, the model has more positive sums; trimmed, more negative ones are left.
    one = np.array([9.0, 1, 2, 3, 4, 5, -8, -8])
    other = np.array([-9.0, 1, 2, 3, 4, 5, -8, -8])
    base, pair = {"w": np.zeros(8)}, {"a": {"w": one}, "b": {"w": other}}
    recipes = [recipe_of(Ties(trim=trim, arithmetic="reference"), pair) for trim in (0.0, 0.7)]
    merged = stream(open_engine(base, pair), recipes)
    assert [each["w"][0] for each in merged] == [9, -9]


def test_a_4_by_4_table_computed_by_hand(merge):
    one = np.array([[8, -7, 6, 5], [4, 3, 2, 1], [-8, 7, -6, 5], [0, 0, 0, 0]]) * 1.0
    two = np.array([[4, -5, -8, 1], [2, -6, 7, 3], [8, 9, -2, 0], [1, -1, 0, 0]]) * 1.0
    # Half is trimmed: 8 of 16 stay. One keeps |x| >= 5: 8 7 6 5 8 7 6 5. Two keeps its 8 largest:
    # 4 5 8 6 7 8 9 and the 3.
    expected = [[6, -6, -8, 5], [0, -6, 7, 3], [0, 8, -6, 5], [0, 0, 0, 0]]
    # (0,2): 6 - 8 < 0 elects minus: only -8. (2,0): -8 + 8 = 0 elects nothing.
    pair = {"a": {"w": one}, "b": {"w": two}}
    merged = merge({"w": 0 * one}, pair, Ties(trim=0.5, scope="per_tensor"))
    assert merged["w"].tolist() == expected


def test_a_trim_below_the_drop_rate_removes_nothing_further(merge, base, experts):
    merged = [
        merge(base, experts, Ties(trim=trim, scope="per_tensor"), Dare(rate=0.9))
        for trim in (0.0, 0.5)
    ]
    assert all(np.array_equal(merged[0][name], merged[1][name]) for name in base)


@pytest.mark.parametrize("scope", ["per_tensor", "global"])
@pytest.mark.parametrize("arithmetic", ["exact", "reference"])
@pytest.mark.parametrize(
    "sparsifier",
    [Dare(rate=0.5), Magnitude(rate=0.5), Magnitude(rate=0.5, scope="global")],
    ids=lambda spec: f"{spec.kind}-{getattr(spec, 'scope', '')}",
)
def test_sparsified_deltas_are_trimmed(
    merge, sparsify, base, experts, scope, arithmetic, sparsifier
):
    spec = Ties(trim=0.7, scope=scope, arithmetic=arithmetic)
    left = {name: sparsify(sparsifier, base, experts[name], name)[0] for name in NAMES}
    zeros = {name: np.zeros_like(each) for name, each in base.items()}
    merged, changes = merge(base, experts, spec, sparsifier), merge(zeros, left, spec)
    for name in base:
        assert np.array_equal(merged[name], base[name] + changes[name])


def test_one_expert_alone_is_only_trimmed(merge, base, experts):
    merged = merge(base, experts, Ties(trim=0.8), names=("math",))
    (delta,) = deltas_of(base, {"math": experts["math"]})
    delta[np.argsort(np.abs(delta), kind="stable")[: round(0.8 * delta.size)]] = 0
    np.testing.assert_allclose(flat(merged), flat(base) + delta, rtol=1e-6)


@pytest.mark.parametrize("scope", ["per_tensor", "global"])
@pytest.mark.parametrize("sparsifier", [Dare(rate=0.9), DropOnly(rate=0.9)], ids=type)
def test_what_masks_surely_drop_need_not_be_looked_at(merge, monkeypatch, scope, sparsifier):
    random = np.random.default_rng(0)
    base, math, code = ({"w": random.standard_normal((40, 500))} for _ in range(3))
    found = {}
    for asked in ("told", "looked at"):
        if asked == "looked at":
            monkeypatch.setattr("mergegrid.methods.ties.surely_drop", lambda *_: False)
        spec = Ties(trim=0.8, scope=scope)
        found[asked] = merge(base, {"math": math, "code": code}, spec, sparsifier)["w"]
    assert found["told"].tobytes() == found["looked at"].tobytes()


def by_weight(deltas, weights, normalize, undecided=0.0):
    """Election and sum by weight, of flat arrays: sum w d m over sum w m."""
    stacked, weights = np.stack(deltas), np.array(weights)[:, None]
    weighted = stacked * weights
    sign = np.sign(weighted.sum(axis=0))
    sign = np.where(sign == 0, undecided, sign)
    agree = (np.sign(weighted) == sign) & (weighted != 0)
    total, mass = np.where(agree, weighted, 0).sum(axis=0), (weights * agree).sum(axis=0)
    return total / np.where(mass == 0, 1, mass) if normalize else total


WEIGHTS = {"chat": 0.3, "code": 1.7, "math": 0.5}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [{}, WEIGHTS, {"code": 0.25}, {"math": 0}])
@pytest.mark.parametrize("names", [NAMES, NAMES[:2]], ids=["three", "two"])
def test_experts_are_elected_and_merged_by_weight(merge, base, experts, weights, normalize, names):
    weights = {name: weight for name, weight in weights.items() if name in names}
    spec = Ties(trim=0.5, coefficient=0.7, weights=weights, normalize=normalize)
    merged = merge(base, experts, spec, names=names)
    deltas = deltas_of(base, {name: experts[name] for name in names})
    for delta in deltas:
        delta[np.argsort(np.abs(delta), kind="stable")[: round(0.5 * delta.size)]] = 0
    change = by_weight(deltas, [weights.get(name, 1.0) for name in sorted(names)], normalize)
    np.testing.assert_allclose(flat(merged), flat(base) + 0.7 * change, rtol=1e-5, atol=1e-8)


def test_equal_weights_change_the_sum_alone(merge, base, experts):
    halves = dict.fromkeys(NAMES, 0.5)
    mean = merge(base, experts, Ties())
    np.testing.assert_allclose(flat(merge(base, experts, Ties(weights=halves))), flat(mean), 1e-6)
    whole = merge(base, experts, Ties(normalize=False))
    half = merge(base, experts, Ties(normalize=False, weights=halves))
    np.testing.assert_allclose(
        flat(half) - flat(base), (flat(whole) - flat(base)) / 2, rtol=1e-3, atol=1e-8
    )


def test_a_weight_decides_the_election(merge):
    pair = {"a": {"w": np.array([1.0, -3.0])}, "b": {"w": np.array([-2.0, 2.0])}}
    table = {
        (1, 1, True): [-2, -3],
        (3, 1, True): [1, -3],
        (3, 1, False): [3, -9],
        (1, 3, True): [-2, 2],
        (2, 1, True): [0, -3],
    }
    for (one, other, normalize), expected in table.items():
        spec = Ties(trim=0, weights={"a": one, "b": other}, normalize=normalize)
        assert merge({"w": np.zeros(2)}, pair, spec)["w"].tolist() == expected


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [{}, {"x": 0.5, "y": 0.5}, {"x": 0.4, "y": 0.9}])
@pytest.mark.parametrize("density", [1.0, 0.53, 0.3])
def test_the_arithmetic_of_mergekit_keeps_and_elects_as_its_code_does(
    merge, integers, weights, normalize, density
):
    base, experts = integers
    spec = Ties(
        trim=round(1 - density, 2),
        scope="per_tensor",
        weights=weights,
        normalize=normalize,
        arithmetic="mergekit",
    )
    merged = merge(base, experts, spec)
    for name in base:
        deltas = [experts[expert][name].ravel().copy() for expert in ("x", "y")]
        for delta in deltas:
            # Of equal magnitudes, any may be kept; the first, here and in the engine.
            kept = np.argsort(-np.abs(delta), kind="stable")[: int(density * delta.size)]
            delta[np.setdiff1d(np.arange(delta.size), kept)] = 0
        expected = by_weight(
            deltas, [weights.get(expert, 1.0) for expert in ("x", "y")], normalize, undecided=1.0
        )
        np.testing.assert_allclose(merged[name].ravel(), expected, rtol=1e-6)


def test_the_majority_of_the_reference_is_of_weighted_sums(open_engine, stream, recipe_of):
    # Unweighted, more sums are positive; by weight, more are negative. The first sum is 0.
    one = np.array([6.0, 2, 2, -2, -2, -2])
    other = np.array([-6.0, -1, -1, 3, 3, 3])
    base, pair = {"w": np.zeros(6)}, {"a": {"w": one}, "b": {"w": other}}
    tie = {"a": {"w": one * [0.5, 1, 1, 1, 1, 1]}, "b": {"w": other}}
    spec = Ties(trim=0, arithmetic="reference")
    weighted = spec.model_copy(update={"weights": {"a": 2.0}})
    (plain,) = stream(open_engine(base, pair), [recipe_of(spec, pair)])
    (by_two,) = stream(open_engine(base, tie), [recipe_of(weighted, tie)])
    assert (plain["w"][0], by_two["w"][0]) == (6, -6)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_threads_and_chunks_change_no_bit_of_a_weighted_sum(merge, number):
    random = np.random.default_rng(0)
    base, *others = (
        {name: random.standard_normal(shape) for name, shape in (("a", (700, 300)), ("b", 70_001))}
        for _ in range(4)
    )
    experts = dict(zip(NAMES, others, strict=True))
    spec = Ties(trim=0.3, weights=WEIGHTS, normalize=number == 2)
    options = EngineOptions(threads=number, chunk_size=GRAIN * number)
    merged = merge(base, experts, spec, Dare(rate=0.2), options=options)
    expected = merge(base, experts, spec, Dare(rate=0.2))
    assert all(merged[name].tobytes() == expected[name].tobytes() for name in base)
