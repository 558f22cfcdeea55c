"""Average, task arithmetic, SLERP and Model Stock against NumPy; what a recipe must not ask."""

from itertools import combinations

import numpy as np
import pytest

from mergegrid.engine.method import Method
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.methods import METHODS
from mergegrid.methods.average import Average
from mergegrid.methods.consensus import Consensus
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.iso_c import IsoC
from mergegrid.methods.iso_cts import IsoCts
from mergegrid.methods.karcher import Karcher
from mergegrid.methods.knots import Knots
from mergegrid.methods.magmax import MagMax
from mergegrid.methods.model_stock import ModelStock
from mergegrid.methods.multislerp import Multislerp
from mergegrid.methods.nuslerp import NuSlerp
from mergegrid.methods.pcb import Pcb
from mergegrid.methods.ram import Ram
from mergegrid.methods.regmean import RegMean
from mergegrid.methods.sce import Sce
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.methods.tsv_m import TsvM
from mergegrid.methods.wudi import Wudi
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.cabs import Cabs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.tall import Tall

NAMES = ("math", "code", "chat")
ORDERS = [("math", "code", "chat"), ("chat", "math", "code")]
ANY = [
    *(Average(), TaskArithmetic(coefficient=0.5), Ties(trim=0.5), ModelStock(), Sce(select=0.5)),
    *(Consensus(), MagMax(), Ram(boost=1.1), Karcher(), Multislerp()),
    *(IsoC(), TsvM(), Wudi(), Pcb(keep=0.5), IsoCts(common=0.5), Knots(trim=0.5)),
]
SPARSIFIERS = [
    NoSparsifier(),
    Dare(rate=0.5),
    DropOnly(rate=0.5),
    Magnitude(rate=0.5),
    Magnitude(rate=0.5, scope="global"),
    MaskedFinetuned(rate=0.5),
    Della(rate=0.5),
    Breadcrumbs(rate=0.5),
    Breadcrumbs(rate=0.5, scope="global"),
    Cabs(n=2, m=8),
    Tall(),
]


def label(spec):
    return "-".join(str(value) for value in spec.model_dump().values())


def double(tensors, names=NAMES):
    """Every expert's tensor of a name, stacked, in float64."""
    return {
        name: np.stack([tensors[each][name] for each in names]).astype(np.float64)
        for name in tensors[names[0]]
    }


def cosine(one, other):
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return (one * other).sum() / lengths if lengths else 0.0


def test_every_method_has_its_kind_and_arithmetic_of_its_own():
    for kind, method in METHODS.items():
        assert method.model_fields["kind"].default == kind
        assert method.merge is not Method.merge


def test_average_is_the_mean_of_the_experts(merge, base, experts):
    merged, stacked = merge(base, experts, Average()), double(experts)
    for name in base:
        np.testing.assert_allclose(merged[name], stacked[name].mean(axis=0), rtol=6e-8)


def test_average_weighs_experts_by_their_share_of_the_weights(merge, base, experts):
    merged = merge(base, experts, Average(weights={"chat": 3, "code": 0.5}))
    for name, stacked in double(experts).items():
        expected = np.average(stacked, axis=0, weights=[1, 0.5, 3])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-7)


def test_average_with_all_weight_on_one_expert_is_that_expert_to_the_bit(merge, base, experts):
    merged = merge(base, experts, Average(weights={"chat": 0, "code": 7, "math": 0}))
    assert all(np.array_equal(merged[name], experts["code"][name]) for name in base)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_average_of_equal_experts_is_that_expert_to_the_bit(merge, base, experts, count):
    same = {f"copy{number}": experts["math"] for number in range(count)}
    for weights in ({}, {name: 0.1 * number + 0.1 for number, name in enumerate(same)}):
        merged = merge(base, same, Average(weights=weights))
        assert all(merged[name].tobytes() == experts["math"][name].tobytes() for name in base)


@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_task_arithmetic_adds_a_multiple_of_the_summed_deltas(merge, base, experts, coefficient):
    merged = merge(base, experts, TaskArithmetic(coefficient=coefficient))
    for name, stacked in double(experts).items():
        expected = base[name] + coefficient * (stacked - base[name]).sum(axis=0)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-8)


def test_task_arithmetic_multiplies_single_deltas_by_their_own_coefficients(merge, base, experts):
    spec = TaskArithmetic(coefficient=0.5, coefficients={"code": -2, "chat": 0})
    merged = merge(base, experts, spec)
    for name, stacked in double(experts).items():
        deltas = stacked - base[name]
        expected = base[name] + 0.5 * (deltas[0] - 2 * deltas[1])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-8)


def test_without_normalize_an_average_is_a_weighted_sum(merge, base, experts):
    merged = merge(base, experts, Average(weights={"chat": 0.5, "code": 0}, normalize=False))
    for name, stacked in double(experts).items():
        np.testing.assert_allclose(merged[name], stacked[0] + 0.5 * stacked[2], rtol=1e-6)
    halved = merge(base, experts, Average(weights={"math": 0.5}, normalize=False), names=("math",))
    assert all(np.array_equal(halved[name], experts["math"][name] / 2) for name in base)


def test_task_arithmetic_may_divide_by_the_sum_of_its_coefficients(merge, base, experts):
    spec = TaskArithmetic(coefficient=0.5, coefficients={"code": 2, "chat": -0.5}, normalize=True)
    merged = merge(base, experts, spec)
    for name, stacked in double(experts).items():
        deltas = stacked - base[name]
        expected = base[name] + 0.5 * (deltas[0] + 2 * deltas[1] - 0.5 * deltas[2]) / 2.5
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-8)


def test_task_arithmetic_by_1_over_k_is_the_average(merge, base, experts):
    average = merge(base, experts, Average())
    for name, tensor in merge(base, experts, TaskArithmetic(coefficient=1 / 3)).items():
        np.testing.assert_allclose(tensor, average[name], rtol=1e-5, atol=1e-8)


def test_task_arithmetic_without_a_coefficient_left_is_the_base_to_the_bit(merge, experts):
    base = {name: np.where(each > 0, each, -0.0) for name, each in experts["chat"].items()}
    merged = merge(base, experts, TaskArithmetic(coefficient=0))
    assert all(merged[name].tobytes() == base[name].tobytes() for name in base)


@pytest.mark.parametrize("weights", [{}, {"code": 3}, {"math": 0}, {"code": 0}])
def test_slerp_goes_along_the_great_circle(merge, base, experts, weights):
    pair = {name: experts[name] for name in ("code", "math")}
    merged = merge(base, pair, Slerp(weights=weights))
    t = weights.get("math", 1) / (weights.get("math", 1) + weights.get("code", 1))
    for name, (one, other) in double(pair, ("code", "math")).items():
        angle = np.arccos(cosine(one, other))
        expected = np.sin((1 - t) * angle) * one + np.sin(t * angle) * other
        np.testing.assert_allclose(merged[name], expected / np.sin(angle), rtol=1e-5, atol=1e-8)


def test_slerp_half_way_between_vectors_at_right_angles_has_their_length(merge):
    one, other = np.array([3.0, 0]), np.array([0.0, 3])
    merged = merge({"w": np.zeros(2)}, {"a": {"w": one}, "b": {"w": other}}, Slerp())
    np.testing.assert_allclose(merged["w"], [3 / np.sqrt(2)] * 2, rtol=1e-6)


def test_nuslerp_turns_deltas_around_the_base(merge, base, experts):
    pair = {name: experts[name] for name in ("code", "math")}
    deltas = {name: {key: w - base[key] for key, w in each.items()} for name, each in pair.items()}
    merged = merge(base, pair, NuSlerp(weights={"code": 3}))
    zero = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    turned = merge(zero, deltas, Slerp(weights={"code": 3}))
    for name in base:
        np.testing.assert_allclose(merged[name] - base[name], turned[name], atol=1e-8)


@pytest.mark.parametrize("other", [[2.0, 4.0], [-2.0, -4.0], [0.0, 0.0]])
def test_slerp_goes_straight_between_parallel_opposite_and_zero_vectors(merge, other):
    pair = {"a": {"w": np.array([1.0, 2.0])}, "b": {"w": np.array(other)}}
    merged = merge({"w": np.zeros(2)}, pair, Slerp(weights={"a": 3}))
    assert merged["w"].tolist() == [0.75 + other[0] / 4, 1.5 + other[1] / 4]


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_goes_from_the_base_to_one_expert(merge, base, experts, t):
    # Far enough from the base that the circle is no line.
    expert = {name: each + 10 * (each - base[name]) for name, each in experts["math"].items()}
    merged = merge(base, {"math": expert}, Slerp(t=t))
    for name, one in base.items():
        one, other = one.astype(np.float64), expert[name].astype(np.float64)
        angle = np.arccos(cosine(one, other))
        expected = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * other) / np.sin(angle)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-7)
    if t in (0, 1):
        end = expert if t else base
        assert all(np.array_equal(merged[name], end[name]) for name in base)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_from_the_base_to_itself_is_the_base_to_the_bit(merge, base, t):
    merged = merge(base, {"copy": base}, Slerp(t=t))
    assert all(merged[name].tobytes() == base[name].tobytes() for name in base)


def test_slerp_from_the_base_is_that_between_two_experts_of_which_one_is_the_base(
    merge, base, experts
):
    far = {name: each + 10 * (each - base[name]) for name, each in experts["math"].items()}
    gradient = {"rules": [{"tensors": "*.weight", "value": 0.75}], "default": 0.25}
    rest = {"rules": [{"tensors": "*.weight", "value": 0.25}], "default": 0.75}
    one = merge(base, {"math": far}, Slerp.model_validate({"t": gradient}))
    weights = {"math": gradient, "copy": rest}
    two = merge(base, {"math": far, "copy": base}, Slerp.model_validate({"weights": weights}))
    for name in base:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-6, atol=1e-9)


def slerp_of_mergekit(t, one, other):
    """mergekit's `slerp`, in float32: the line above a cosine of 0.9995."""
    norm = lambda vector: vector / np.linalg.norm(vector)  # noqa: E731
    dot = np.sum(norm(one) * norm(other))
    if np.abs(dot) > 0.9995:
        return (1 - t) * one + t * other
    angle = np.arccos(dot)
    return (np.sin(angle - angle * t) * one + np.sin(angle * t) * other) / np.sin(angle)


@pytest.mark.parametrize("distance", [0.01, 1, 10])
def test_the_arithmetic_of_mergekit_takes_the_line_between_near_models(
    merge, base, experts, distance
):
    expert = {
        name: (base[name] + distance * (each - base[name])).astype(np.float32)
        for name, each in experts["math"].items()
    }
    merged = merge(base, {"math": expert}, Slerp(t=0.3, arithmetic="mergekit"))
    exact = merge(base, {"math": expert}, Slerp(t=0.3))
    for name in base:
        expected = slerp_of_mergekit(0.3, base[name], expert[name])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-8)
    near = all(cosine(base[name], expert[name]) > 0.9995 for name in base)
    assert near == (distance == 0.01)
    assert all(np.allclose(merged[name], exact[name], atol=1e-6) for name in base)


@pytest.mark.parametrize("count", [2, 3])
def test_model_stock_lies_between_base_and_average_by_the_angle(merge, base, experts, count):
    names = NAMES[:count]
    towards_math = {
        name: {key: each[key] + 2 * experts["math"][key] - 2 * base[key] for key in base}
        for name, each in experts.items()
    }
    merged = merge(base, towards_math, ModelStock(), names=names)
    for name, stacked in double(towards_math, names).items():
        deltas = stacked - base[name]
        mean = np.mean([cosine(*pair) for pair in combinations(deltas, 2)])
        ratio = count * mean / (1 + (count - 1) * mean)
        assert 0.5 < ratio < 1
        expected = base[name] + ratio * deltas.mean(axis=0)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-8)


def test_model_stock_of_equal_experts_is_that_expert(merge, base, experts):
    same = {"a": experts["math"], "b": experts["math"]}
    for name, tensor in merge(base, same, ModelStock()).items():
        np.testing.assert_allclose(tensor, experts["math"][name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1e-5], ids=["large", "hardly changed"])
@pytest.mark.parametrize("sign", [1, -1], ids=["towards", "away"])
def test_model_stock_by_the_arithmetic_of_mergekit_is_that_of_its_code(merge, sign, scale):
    random = np.random.default_rng(0)
    one = random.standard_normal(400) * scale
    two = sign * one + random.standard_normal(400) * scale
    spec = ModelStock(arithmetic="mergekit")
    merged = merge({"w": 0 * one}, {"a": {"w": one}, "b": {"w": two}}, spec, names=("a", "b"))
    # mergekit.merge_methods.model_stock
    lengths = max(np.linalg.norm(one) * np.linalg.norm(two), 1e-6)
    cosine = np.clip(one @ two / lengths, -1, 1)
    ratio = 2 * cosine / (1 + cosine)
    np.testing.assert_allclose(merged["w"], ratio * (one + two) / 2, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("other", [[0.0, 2.0], [-1.0, 0.0], [-1.0, -5.0], [0.0, 0.0]])
def test_model_stock_is_the_base_where_experts_share_no_direction(merge, other):
    base = np.array([1.0, -0.0])
    pair = {"a": {"w": base + np.array([1.0, 0.0])}, "b": {"w": base + np.array(other)}}
    merged = merge({"w": base}, pair, ModelStock())
    assert merged["w"].tobytes() == base.astype(np.float32).tobytes()


@pytest.mark.parametrize("method", ANY, ids=label)
@pytest.mark.parametrize("sparsifier", SPARSIFIERS, ids=label)
def test_the_order_of_experts_changes_no_bit(merge, base, experts, method, sparsifier):
    one, other = (merge(base, experts, method, sparsifier, order) for order in ORDERS)
    assert all(one[name].tobytes() == other[name].tobytes() for name in base)


@pytest.mark.parametrize("method", ANY, ids=label)
def test_a_method_merges_what_the_sparsifier_leaves(merge, sparsify, base, experts, method):
    spec = Dare(rate=0.5)
    thinned = {name: sparsify(spec, base, experts[name], name)[1] for name in NAMES}
    merged, expected = merge(base, experts, method, spec), merge(base, thinned, method)
    for name in base:
        np.testing.assert_allclose(merged[name], expected[name], rtol=1e-4, atol=1e-7)


def test_the_mask_of_an_expert_is_the_same_alone_and_in_company(merge, base, experts):
    alone = merge(base, experts, TaskArithmetic(), Dare(rate=0.9), ("math",))
    others = dict(experts, code=base, chat=base)
    together = merge(base, others, TaskArithmetic(), Dare(rate=0.9))
    assert all(np.array_equal(alone[name], together[name]) for name in base)


@pytest.mark.parametrize("method", ANY, ids=label)
def test_tensors_may_be_scalars_or_have_one_element(merge, method):
    base = {"scalar": np.array(1.0), "one": np.ones(1), "w": np.ones((1, 3))}
    experts = {name: {key: each * 2 for key, each in base.items()} for name in ("a", "b")}
    merged = merge(base, experts, method)
    assert {name: each.shape for name, each in merged.items()} == {
        name: each.shape for name, each in base.items()
    }
    assert all(np.isfinite(each).all() for each in merged.values())


@pytest.mark.parametrize("method", ANY, ids=label)
@pytest.mark.parametrize("sparsifier", [NoSparsifier(), Magnitude(rate=0.5)], ids=label)
def test_tensors_without_elements_stay_without(merge, method, sparsifier):
    base = {"empty": np.ones((0, 4)), "w": np.ones(4)}
    experts = {
        name: {"empty": base["empty"], "w": base["w"] + number} for number, name in enumerate(NAMES)
    }
    merged = merge(base, experts, method, sparsifier)
    assert merged["empty"].shape == (0, 4)
    assert np.isfinite(merged["w"]).all()


@pytest.mark.parametrize(
    ("method", "sparsifier", "names", "message"),
    [
        (
            Average(),
            None,
            ("math", "law"),
            "merges law, which is not among the experts chat, code, math; ",
        ),
        (
            Average(weights={"law": 1}),
            None,
            NAMES,
            r"average.weights refers to law, which is not an expert",
        ),
        (Average(weights={"chat": 1}), None, NAMES[:2], r"choose among code, math"),
        (
            TaskArithmetic(coefficients={"x": 1}),
            None,
            NAMES,
            r"task_arithmetic.coefficients refers to x",
        ),
        (
            Average(),
            Dare(rate=0.5, rates={"x": 0.1}),
            NAMES,
            r"dare.rates refers to x, which is not ",
        ),
        (
            Average(weights=dict.fromkeys(NAMES, 0)),
            None,
            NAMES,
            r"average.weights of .* sum to 0; give",
        ),
        (
            Fisher(weights=dict.fromkeys(NAMES, 0)),
            None,
            NAMES,
            r"fisher.weights of .* sum to 0; give",
        ),
        (Slerp(), None, NAMES, "slerp merges 1 to 2 experts, but the recipe has 3"),
        (Slerp(weights={"math": 1}), None, NAMES[:1], "with math alone, slerp goes from the base"),
        (Slerp(t=0.25), None, NAMES[:2], "between code and math, give `weights` instead"),
        (
            ModelStock(),
            None,
            NAMES[:1],
            "model_stock merges at least 2 experts, but the recipe has 1",
        ),
        (Sce(), None, NAMES[:1], "sce merges at least 2 experts, but the recipe has 1"),
        (
            Fisher(),
            None,
            NAMES,
            "fisher needs model statistics of every expert, and there are none of chat",
        ),
        (
            RegMean(),
            None,
            NAMES,
            "regmean needs model statistics of every expert, and there are none of chat",
        ),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_recipe_that_does_not_fit_is_refused_with_what_to_do(
    merge, base, experts, method, sparsifier, names, message
):
    with pytest.raises(ConfigError, match=message):
        merge(base, experts, method, sparsifier, names)


def test_statistics_of_one_expert_are_not_enough(merge, base, experts):
    with pytest.raises(ConfigError, match="there are none of code; add its file"):
        merge(base, experts, Fisher(), statistics={"math": base, "chat": base})


def test_an_expert_that_lacks_a_tensor_is_refused(open_engine, base, experts):
    lacking = {name: each for name, each in experts["math"].items() if name != "layer.bias"}
    with pytest.raises(CheckpointError, match=r"math lacks 1 of its base's tensors, first layer"):
        open_engine(base, {"math": lacking})
