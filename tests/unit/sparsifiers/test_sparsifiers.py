"""Every sparsifier against NumPy, and against what the numerical contract says of it."""

import numpy as np
import pytest

from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.sparsifiers import SPARSIFIERS
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.rates import Rule

RATES = [0.1, 0.5, 0.9, 0.99]
OF_DELTAS = [Dare, DropOnly, Magnitude, Della, Breadcrumbs]
RATED = [*OF_DELTAS, MaskedFinetuned]
SCOPES = ["per_tensor", "global"]
#: A model with a tensor of each group, of equal shape.
LLAMA = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.2.mlp.up_proj.weight",
    "model.layers.2.self_attn.q_proj.weight",
    "model.norm.weight",
]


def deltas_of(base, expert):
    return {name: expert[name] - base[name] for name in base}


def factor(rate):
    return np.float32(1 / (1 - rate))


def groups(names, scope):
    return [list(names)] if scope == "global" else [[name] for name in names]


def flat(tensors, names):
    return np.concatenate([tensors[name].ravel() for name in names])


def without(deltas, *dropped):
    """A flat array without some of its elements."""
    left = deltas.copy()
    for places in dropped:
        left[places] = 0
    return left


def by_magnitude(deltas):
    """Places in the order of magnitudes, of equals the later first."""
    return np.lexsort((-np.arange(deltas.size), np.abs(deltas)))


@pytest.fixture(scope="module")
def llama():
    random = np.random.default_rng(0)
    base = {name: random.standard_normal((40, 50)).astype(np.float32) for name in LLAMA}
    change = {name: random.standard_normal((40, 50)).astype(np.float32) for name in LLAMA}
    return base, {name: base[name] + 0.1 * change[name] for name in LLAMA}


def test_every_sparsifier_has_its_kind_and_arithmetic_of_its_own():
    for kind, sparsifier in SPARSIFIERS.items():
        assert sparsifier.model_fields["kind"].default == kind
        assert sparsifier.apply is not Sparsifier.apply


def test_without_a_sparsifier_deltas_and_weights_are_the_experts(sparsify, base, experts):
    deltas, weights = sparsify(NoSparsifier(), base, experts["math"])
    for name, expected in deltas_of(base, experts["math"]).items():
        assert np.array_equal(deltas[name], expected)
        assert weights[name].tobytes() == experts["math"][name].tobytes()


@pytest.mark.parametrize("rate", RATES)
def test_dare_is_the_masked_delta_over_one_minus_p(sparsify, keeps, base, experts, rate):
    spec = Dare(rate=rate, seed=1)
    deltas, weights = sparsify(spec, base, experts["math"])
    for name, delta in deltas_of(base, experts["math"]).items():
        expected = np.where(keeps(spec, "math", name, delta.shape), delta * factor(rate), 0)
        assert np.array_equal(deltas[name], expected)
        assert np.array_equal(weights[name], base[name] + expected)


@pytest.mark.parametrize("q", [0.2, 0.5, 1.0])
def test_dare_with_a_rescale_of_its_own_divides_what_is_kept_by_it(sparsify, base, experts, q):
    spec = Dare(rate=0.8, seed=1, rescale=q)
    deltas, _ = sparsify(spec, base, experts["math"])
    dropped, _ = sparsify(DropOnly(rate=0.8, seed=1), base, experts["math"])
    for name, delta in dropped.items():
        assert np.array_equal(deltas[name], delta * np.float32(1 / q))


def test_a_rescale_of_1_minus_p_is_dare_to_the_bit_and_the_default_changes_no_digest(
    sparsify, base, experts
):
    spec = Dare(rate=0.75, seed=1)
    for plain, own in zip(
        sparsify(spec, base, experts["math"]),
        sparsify(Dare(rate=0.75, seed=1, rescale=0.25), base, experts["math"]),
        strict=True,
    ):
        assert all(plain[name].tobytes() == own[name].tobytes() for name in base)
    assert spec.model_dump(mode="json") == {"kind": "dare", "rate": 0.75, "seed": 1}


def test_single_experts_may_have_a_rescale_of_their_own(sparsify, base, experts):
    own = Dare(rate=0.8, seed=1, rescale=0.5, rescales={"math": 0.25})
    quarter = Dare(rate=0.8, seed=1, rescale=0.25)
    (deltas, _), (expected, _) = (sparsify(spec, base, experts["math"]) for spec in (own, quarter))
    assert all(deltas[name].tobytes() == expected[name].tobytes() for name in base)


def test_a_rescale_of_an_expert_changes_no_other(merge, base, experts):
    two = {name: experts[name] for name in ("math", "code")}
    added = TaskArithmetic(coefficient=1.0)
    own, quarter, half = (
        merge(base, two, method=added, sparsifier=Dare(rate=0.8, seed=1, **rescale))
        for rescale in (
            {"rescale": 0.5, "rescales": {"math": 0.25}},
            {"rescale": 0.25},
            {"rescale": 0.5},
        )
    )
    of_code = merge(
        base, {"code": two["code"]}, method=added, sparsifier=Dare(rate=0.8, seed=1, rescale=0.5)
    )
    for name in base:
        # With a quarter for both, the deltas of code are twice as large.
        expected = quarter[name] - (of_code[name] - base[name])
        np.testing.assert_allclose(own[name], expected, atol=1e-6)
        assert not np.array_equal(own[name], half[name])


@pytest.mark.parametrize("rate", RATES)
def test_drop_only_gives_the_experts_weight_or_the_bases(sparsify, keeps, base, experts, rate):
    spec = DropOnly(rate=rate, seed=1)
    deltas, weights = sparsify(spec, base, experts["math"])
    for name, delta in deltas_of(base, experts["math"]).items():
        mask = keeps(spec, "math", name, delta.shape)
        assert np.array_equal(deltas[name], np.where(mask, delta, 0))
        assert np.array_equal(weights[name], np.where(mask, experts["math"][name], base[name]))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_magnitude_keeps_the_largest_deltas(sparsify, base, experts, rate, rescale, scope):
    spec = Magnitude(rate=rate, rescale=rescale, scope=scope)
    deltas, weights = sparsify(spec, base, experts["math"])
    exact = deltas_of(base, experts["math"])
    for group in groups(base, scope):
        values = flat(exact, group)
        expected = without(values, by_magnitude(values)[: round(rate * values.size)])
        expected = expected * factor(rate) if rescale else expected
        assert np.array_equal(flat(deltas, group), expected)
        full = flat(base, group) + expected if rescale else flat(experts["math"], group)
        assert np.array_equal(flat(weights, group), np.where(expected, full, flat(base, group)))


def test_magnitude_of_a_4_by_4_table_computed_by_hand(sparsify):
    expert = np.array([[9, -8, 7, 6], [5, -4, 4, 3], [4, 2, -2, 1], [0, 0, 1, -9]]) * 1.0
    # Half of 16 goes: 0 0 1 1 2 2 3, and one of three equal fours, the last.
    expected = [[9, -8, 7, 6], [5, -4, 4, 0], [0, 0, 0, 0], [0, 0, 0, -9]]
    spec = Magnitude(rate=0.5)
    assert sparsify(spec, {"w": 0 * expert}, {"w": expert})[1]["w"].tolist() == expected


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("scope", SCOPES)
def test_magnitude_by_the_references_arithmetic_drops_up_to_the_kth_smallest(
    sparsify, base, experts, rate, scope
):
    rounded = {name: np.round(each, 3) for name, each in experts["math"].items()}
    deltas, _ = sparsify(Magnitude(rate=rate, scope=scope, arithmetic="reference"), base, rounded)
    exact = deltas_of(base, rounded)
    for group in groups(base, scope):
        values = flat(exact, group)
        rank = int(values.size * rate)
        threshold = np.sort(np.abs(values))[rank - 1] if rank else -1
        assert np.array_equal(flat(deltas, group), np.where(np.abs(values) > threshold, values, 0))


def test_the_references_magnitude_drops_all_ties_at_the_threshold(sparsify):
    expert = np.array([1.0, 1, 1, 1, 2])
    reference = Magnitude(rate=0.4, arithmetic="reference")
    left = [
        sparsify(spec, {"w": 0 * expert}, {"w": expert})[1]["w"].tolist()
        for spec in (reference, Magnitude(rate=0.4))
    ]
    assert left == [[0, 0, 0, 0, 2], [1, 1, 0, 0, 2]]


def test_the_references_magnitude_drops_nothing_where_it_would_raise(sparsify):
    expert = np.array([1.0, 2, 3])
    spec = Magnitude(rate=0.3, arithmetic="reference")
    assert sparsify(spec, {"w": 0 * expert}, {"w": expert})[1]["w"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("rescale", [False, True])
def test_masked_finetuned_drops_the_weights_themselves(
    sparsify, keeps, base, experts, rate, rescale
):
    spec = MaskedFinetuned(rate=rate, seed=1, rescale=rescale)
    deltas, weights = sparsify(spec, base, experts["math"])
    scale = factor(rate) if rescale else np.float32(1)
    for name, expert in experts["math"].items():
        expected = np.where(keeps(spec, "math", name, expert.shape), expert * scale, 0)
        assert np.array_equal(weights[name], expected)
        assert np.array_equal(deltas[name], expected - base[name])


@pytest.mark.parametrize(
    ("rate", "window"), [(0.5, 0.1), (0.9, 0.1), (0.9, 0.5), (0.05, 0.1), (0.5, 1.0), (0.3, 0.0)]
)
def test_della_drops_by_rank_in_the_row_and_divides_by_the_keep_probability(
    sparsify, words, base, experts, rate, window
):
    spec = Della(rate=rate, window=window, seed=2)
    deltas, weights = sparsify(spec, base, experts["math"])
    width = min(window, rate, 1 - rate)
    for name, delta in deltas_of(base, experts["math"]).items():
        rows = delta.reshape(-1, delta.shape[-1])
        ranks = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1)
        keep = 1 - (rate + width - 2 * width * ranks / (rows.shape[1] - 1))
        kept = words(2, "math", name, delta.size).reshape(rows.shape) < np.rint(keep * 2**32)
        expected = np.where(kept, rows / np.where(keep, keep, 1), 0).reshape(delta.shape)
        assert np.array_equal(deltas[name] != 0, expected != 0)
        np.testing.assert_allclose(deltas[name], expected, rtol=3e-7)
        np.testing.assert_allclose(weights[name], base[name] + expected, rtol=1e-6, atol=1e-8)


def test_della_with_a_window_of_zero_is_dare(sparsify, base, experts):
    della = sparsify(Della(rate=0.5, window=0, seed=3), base, experts["math"])
    dare = sparsify(Dare(rate=0.5, seed=3), base, experts["math"])
    for name in base:
        np.testing.assert_allclose(della[0][name], dare[0][name], rtol=3e-7)


def test_della_keeps_large_deltas_more_often_and_stays_unbiased(sparsify):
    row = np.linspace(1, 2, 100)
    expert = {"w": np.tile(row, (4000, 1))}
    deltas, _ = sparsify(Della(rate=0.6, window=0.3), {"w": 0 * expert["w"]}, expert)
    kept = (deltas["w"] != 0).mean(axis=0)
    wanted = 1 - np.linspace(0.9, 0.3, 100)
    assert (abs(kept - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 4000)).all()
    error = row * np.sqrt((1 - wanted) / wanted / 4000)
    assert (abs(deltas["w"].mean(axis=0, dtype=np.float64) - row) < 5 * error).all()


def test_della_ranks_equals_by_index(sparsify, words):
    ones = np.ones((1, 1000))
    deltas, _ = sparsify(Della(rate=0.5, window=0.5), {"w": 0 * ones}, {"w": ones})
    keep = np.arange(1000) / 999
    expected = words(0, "math", "w", 1000) < np.rint(keep * 2**32)
    assert np.array_equal(deltas["w"][0] != 0, expected)


def test_della_takes_a_row_of_one_at_the_rate(sparsify, keeps):
    ones = np.ones((1000, 1))
    spec = Della(rate=0.5, window=0.4)
    deltas, _ = sparsify(spec, {"w": 0 * ones}, {"w": ones})
    assert np.array_equal(deltas["w"] != 0, keeps(spec, "math", "w", (1000, 1)))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("largest", [0.01, 0.1])
@pytest.mark.parametrize("scope", SCOPES)
def test_breadcrumbs_drop_from_the_top_and_from_the_bottom(
    sparsify, base, experts, rate, largest, scope
):
    spec = Breadcrumbs(rate=rate, largest=largest, scope=scope)
    deltas, weights = sparsify(spec, base, experts["math"])
    exact = deltas_of(base, experts["math"])
    for group in groups(base, scope):
        values = flat(exact, group)
        order = by_magnitude(values)
        bottom = round((rate - largest) * values.size)
        top = values.size - round(largest * values.size)
        expected = without(values, order[:bottom], order[top:])
        assert np.array_equal(flat(deltas, group), expected)
        kept = np.where(expected, flat(experts["math"], group), flat(base, group))
        assert np.array_equal(flat(weights, group), kept)


@pytest.mark.parametrize("density", [0.9, 0.53, 0.1, 0.001])
@pytest.mark.parametrize("largest", [None, 0.01, 0.05])
def test_the_arithmetic_of_mergekit_keeps_as_many_as_its_code(sparsify, density, largest):
    expert = np.random.default_rng(0).permutation(np.arange(1.0, 641))
    if largest is None:
        spec = Magnitude(rate=round(1 - density, 3), arithmetic="mergekit")
        # mergekit.sparsify.magnitude
        expected = np.argsort(-expert)[: max(1, int(density * 640))]
    else:
        rate = round(1 - density, 3)
        spec = Breadcrumbs(rate=rate, largest=largest, arithmetic="mergekit")
        # mergekit.sparsify.magnitude_outliers
        target = int(density * 640)
        bottom = max(0, 640 - target - int(largest * 640))
        expected = np.argsort(expert)[bottom : bottom + target]
    deltas, _ = sparsify(spec, {"w": 0 * expert}, {"w": expert})
    assert np.array_equal(np.flatnonzero(deltas["w"]), np.sort(expected))


@pytest.mark.parametrize(
    "spec",
    [kind(rate=0) for kind in RATED] + [Magnitude(rate=0, rescale=True)],
    ids=lambda spec: spec.kind,
)
def test_rate_0_returns_the_expert_to_the_bit(sparsify, base, experts, spec):
    _, weights = sparsify(spec, base, experts["math"])
    for name, expert in experts["math"].items():
        assert weights[name].tobytes() == expert.tobytes()


@pytest.mark.parametrize(
    "spec",
    [kind(rate=1) for kind in OF_DELTAS]
    + [
        Magnitude(rate=1, rescale=True),
        Magnitude(rate=1, scope="global"),
        Magnitude(rate=1, arithmetic="reference"),
        Breadcrumbs(rate=1, scope="global"),
    ],
    ids=lambda spec: spec.kind,
)
def test_rate_1_returns_the_base_to_the_bit(sparsify, spec):
    base = {"w": np.array([0.0, -0.0, 1.0, -2.5], np.float32)}
    deltas, weights = sparsify(spec, base, {"w": np.array([1.0, 2.0, -0.0, 3e38])})
    assert weights["w"].tobytes() == base["w"].tobytes()
    assert (deltas["w"] == 0).all()


def test_masked_finetuned_at_rate_1_leaves_zeros_and_no_nan(sparsify, base, experts):
    _, weights = sparsify(MaskedFinetuned(rate=1), base, experts["math"])
    assert all((weight == 0).all() for weight in weights.values())


@pytest.mark.parametrize(
    "spec",
    [DropOnly(rate=0.5), Magnitude(rate=0.5), Breadcrumbs(rate=0.5)],
    ids=lambda spec: spec.kind,
)
def test_what_is_kept_unscaled_is_the_experts_to_the_bit_however_far_it_is_from_the_base(
    sparsify, spec
):
    random = np.random.default_rng(0)
    expert = random.standard_normal(1000).astype(np.float32)
    base = (expert * 10.0 ** random.integers(-9, 9, 1000)).astype(np.float32)
    assert (base + (expert - base) != expert).any()
    deltas, weights = sparsify(spec, {"w": base}, {"w": expert})
    assert np.array_equal(weights["w"], np.where(deltas["w"], expert, base))
    assert (weights["w"] == expert).any()
    assert (weights["w"] == base).any()


@pytest.mark.parametrize("kind", RATED, ids=lambda kind: kind.__name__)
def test_an_unchanged_expert_is_the_base_at_any_rate(sparsify, base, kind):
    if kind is not MaskedFinetuned:
        _, weights = sparsify(kind(rate=0.5), base, base)
        assert all(weights[name].tobytes() == base[name].tobytes() for name in base)


@pytest.mark.parametrize("kind", RATED, ids=lambda kind: kind.__name__)
def test_the_rate_of_an_expert_stands_in_for_that_of_all(sparsify, base, experts, kind):
    got = sparsify(kind(rate=0.5, rates={"math": 0.9}), base, experts["math"])
    for some, others in zip(got, sparsify(kind(rate=0.9), base, experts["math"]), strict=True):
        assert all(np.array_equal(some[name], others[name]) for name in base)


@pytest.mark.parametrize("kind", RATED, ids=lambda kind: kind.__name__)
def test_experts_of_one_merge_have_their_own_rates(merge, base, experts, kind):
    spec = kind(rate=0.5, rates={"math": 0.9, "chat": 0.0})
    both = merge(base, experts, TaskArithmetic(), spec)
    alone = [
        merge(base, {name: experts[name]}, TaskArithmetic(), kind(rate=rate))
        for name, rate in (("chat", 0.0), ("code", 0.5), ("math", 0.9))
    ]
    for name in base:
        expected = base[name] + sum(each[name] - base[name] for each in alone)
        np.testing.assert_allclose(both[name], expected, rtol=1e-6, atol=1e-7)


def dare_of(rates, keeps, base, expert):
    """Oracle for rules: DARE with a rate for each tensor."""
    return {
        name: np.where(
            keeps(Dare(rate=0), "math", name, base[name].shape, rate),
            (expert[name] - base[name]) * factor(rate),
            0,
        )
        for name, rate in rates.items()
    }


@pytest.mark.parametrize(
    ("tensors", "concerned"),
    [
        ("embeddings", LLAMA[1:2]),
        ("norms", [LLAMA[2], LLAMA[7]]),
        ("head", LLAMA[:1]),
        ("layers 2", LLAMA[5:7]),
        ("layers 0-1", LLAMA[2:5]),
        ("*.mlp.*", LLAMA[3:6]),
        ("model.norm.weight", LLAMA[7:]),
        ("*", LLAMA),
    ],
)
def test_a_rule_gives_some_tensors_another_rate(sparsify, keeps, llama, tensors, concerned):
    spec = Dare(rate=0.5, rules=(Rule(tensors=tensors, rate=0.9),))
    rates = {name: 0.9 if name in concerned else 0.5 for name in LLAMA}
    expected = dare_of(rates, keeps, *llama)
    deltas, _ = sparsify(spec, *llama)
    assert all(np.array_equal(deltas[name], expected[name]) for name in LLAMA)


def test_the_first_rule_that_applies_counts_before_the_rate_of_the_expert(sparsify, keeps, llama):
    spec = Dare(
        rate=0.2,
        rates={"math": 0.3},
        rules=(Rule(tensors="layers 2", rate=0.9), Rule(tensors="*.mlp.*", rate=0.6)),
    )
    rates = dict.fromkeys(LLAMA, 0.3) | dict.fromkeys(LLAMA[3:5], 0.6)
    rates |= dict.fromkeys(LLAMA[5:7], 0.9)
    expected = dare_of(rates, keeps, *llama)
    deltas, _ = sparsify(spec, *llama)
    assert all(np.array_equal(deltas[name], expected[name]) for name in LLAMA)


@pytest.mark.parametrize("kind", RATED, ids=lambda kind: kind.__name__)
def test_a_rule_of_rate_0_leaves_tensors_to_the_bit(sparsify, llama, kind):
    base, expert = llama
    rules = (Rule(tensors="norms", rate=0), Rule(tensors="embeddings", rate=0))
    _, weights = sparsify(kind(rate=0.9, rules=rules), base, expert)
    spared = {LLAMA[1], LLAMA[2], LLAMA[7]}
    for name in LLAMA:
        assert (weights[name].tobytes() == expert[name].tobytes()) == (name in spared)


@pytest.mark.parametrize("kind", OF_DELTAS, ids=lambda kind: kind.__name__)
def test_a_rule_of_rate_1_gives_the_base_of_some_tensors(sparsify, llama, kind):
    base, expert = llama
    _, weights = sparsify(kind(rate=0.5, rules=(Rule(tensors="head", rate=1),)), base, expert)
    for name in LLAMA:
        assert (weights[name].tobytes() == base[name].tobytes()) == (name == LLAMA[0])


@pytest.mark.parametrize("kind", [Magnitude, Breadcrumbs], ids=lambda kind: kind.__name__)
def test_a_global_cut_is_over_all_tensors_of_one_rate(sparsify, llama, kind):
    base, expert = llama
    rule = Rule(tensors="*.mlp.*", rate=0.9)
    deltas, _ = sparsify(kind(rate=0.5, scope="global", rules=(rule,)), base, expert)
    for rate, group in ((0.9, LLAMA[3:6]), (0.5, [*LLAMA[:3], *LLAMA[6:]])):
        some = [{name: model[name] for name in group} for model in llama]
        alone, _ = sparsify(kind(rate=rate, scope="global"), *some)
        assert all(np.array_equal(deltas[name], alone[name]) for name in group)


def test_seeds_draw_other_masks_of_one_size(sparsify, llama):
    masks = [sparsify(Dare(rate=0.5, seed=seed), *llama)[0][LLAMA[0]] != 0 for seed in (0, 1)]
    count = masks[0].size
    assert abs((masks[0] == masks[1]).sum() - count / 2) < 5 * np.sqrt(count) / 2
