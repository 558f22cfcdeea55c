"""Every method against NumPy and against tables computed by hand."""

import numpy as np
import pytest
import torch

from mergegrid.merging.deltas import ExpertDeltas
from mergegrid.merging.engine import merge
from mergegrid.merging.methods import METHODS
from mergegrid.merging.sparsified import SparsifiedExpert
from mergegrid.recipe import methods as specs
from mergegrid.recipe.methods import Average, TaskArithmetic, Ties
from mergegrid.recipe.recipe import Recipe
from mergegrid.recipe.sparsifiers import Dare, NoSparsifier

ORDERS = [("math", "code", "chat"), ("chat", "math", "code")]


def run(base, experts, method, names=("math", "code", "chat"), sparsifier=None):
    recipe = Recipe(
        family="toy", experts=names, method=method, sparsifier=sparsifier or NoSparsifier()
    )
    return dict(merge(recipe, base, experts))


def deltas(base, experts, name):
    return [(experts[each][name] - base[name]).numpy() for each in ("math", "code", "chat")]


def ties_oracle(deltas, trim, coefficient):
    """TIES of flat arrays, straight from the paper's three steps (arXiv 2306.01708)."""
    stacked = np.stack(deltas)
    for row in stacked:
        row[np.argsort(np.abs(row), kind="stable")[: round(trim * row.size)]] = 0
    sign = np.sign(stacked.sum(0))
    agree = (np.sign(stacked) == sign) & (stacked != 0)
    count = np.maximum(agree.sum(0), 1)
    return coefficient * np.where(agree, stacked, 0).sum(0) / count


def test_every_method_that_can_be_asked_for_exists():
    assert {spec.model_fields["kind"].default for spec in specs.METHODS} == set(METHODS)


def test_average_is_the_mean_of_the_experts(base, experts):
    for name, tensor in run(base, experts, Average()).items():
        expected = np.mean([experts[each][name].numpy() for each in experts], axis=0)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_average_of_one_expert_is_that_expert_to_the_bit(base, experts):
    merged = run(base, experts, Average(), names=("math",))
    assert all(torch.equal(merged[name], experts["math"][name]) for name in base)


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 1.0, 1.5])
def test_task_arithmetic_adds_a_multiple_of_the_summed_deltas(base, experts, coefficient):
    for name, tensor in run(base, experts, TaskArithmetic(coefficient=coefficient)).items():
        expected = base[name].numpy() + coefficient * np.sum(deltas(base, experts, name), axis=0)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("trim", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("coefficient", [0.5, 1.0])
def test_ties_per_tensor_equals_the_papers_three_steps(base, experts, trim, coefficient):
    spec = Ties(trim=trim, coefficient=coefficient, scope="per_tensor")
    for name, tensor in run(base, experts, spec).items():
        flat = [delta.ravel() for delta in deltas(base, experts, name)]
        expected = base[name].numpy().ravel() + ties_oracle(flat, trim, coefficient)
        np.testing.assert_allclose(tensor.numpy().ravel(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("trim", [0.0, 0.5, 0.8])
def test_ties_global_equals_the_papers_three_steps_on_the_flat_model(base, experts, trim):
    merged = run(base, experts, Ties(trim=trim, scope="global"))
    flat = [
        np.concatenate([(experts[each][name] - base[name]).numpy().ravel() for name in base])
        for each in ("math", "code", "chat")
    ]
    start = np.concatenate([base[name].numpy().ravel() for name in base])
    got = np.concatenate([merged[name].numpy().ravel() for name in base])
    np.testing.assert_allclose(got, start + ties_oracle(flat, trim, 1.0), rtol=1e-5, atol=1e-8)


def test_ties_of_a_4_by_4_table_computed_by_hand():
    base = {"w": torch.zeros(4, 4)}
    one = torch.tensor([[8, -7, 6, 5], [4, 3, 2, 1], [-8, 7, -6, 5], [0, 0, 0, 0]]) * 1.0
    two = torch.tensor([[4, -5, -8, 1], [2, -6, 7, 3], [8, 9, -2, 0], [1, -1, 0, 0]]) * 1.0
    # Half is trimmed: 8 of 16 stay. One keeps |x| >= 5 but for... its 8 largest: 8 7 6 5 8 7 6 5.
    # Two keeps its 8 largest: 4 5 8 6 7 8 9 and, of 3 and 2 and 2, the 3.
    expected = [[6, -6, -8, 5], [0, -6, 7, 3], [0, 8, -6, 5], [0, 0, 0, 0]]
    # (0,2): 6 - 8 < 0 elects minus: only -8. (2,0): -8 + 8 = 0 elects nothing.
    merged = run(
        base, {"a": {"w": one}, "b": {"w": two}}, Ties(trim=0.5, scope="per_tensor"), ("a", "b")
    )
    assert merged["w"].tolist() == expected


def test_a_trim_below_the_drop_rate_removes_nothing_further(base, experts):
    sparsified = SparsifiedExpert(ExpertDeltas("math", base, experts["math"]), Dare(rate=0.9))
    for name in base:
        delta = sparsified[name].delta
        kept = sparsified.cut(name, 0.5, "per_tensor").keep(delta)
        assert torch.equal(torch.where(kept, delta, 0.0), delta)


@pytest.mark.parametrize(
    "method", [Average(), TaskArithmetic(coefficient=0.5), Ties(trim=0.5)], ids=lambda m: m.kind
)
@pytest.mark.parametrize("sparsifier", [NoSparsifier(), Dare(rate=0.9)], ids=lambda s: s.kind)
def test_the_order_of_experts_changes_nothing_but_rounding(base, experts, method, sparsifier):
    one, other = (run(base, experts, method, order, sparsifier) for order in ORDERS)
    for name in base:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-7)


def test_the_mask_of_an_expert_is_the_same_alone_and_in_company(base, experts):
    alone = run(base, experts, TaskArithmetic(), ("math",), Dare(rate=0.9))
    without_code = dict(experts, code=base, chat=base)
    together = run(base, without_code, TaskArithmetic(), sparsifier=Dare(rate=0.9))
    assert all(torch.equal(alone[name], together[name]) for name in base)
