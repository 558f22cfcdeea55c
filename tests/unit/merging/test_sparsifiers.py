"""Every sparsifier against NumPy, and against what the numerical contract says of it."""

import numpy as np
import pytest
import torch

from mergegrid.merging.deltas import ExpertDeltas
from mergegrid.merging.masks import keep
from mergegrid.merging.sparsifiers import SPARSIFIERS
from mergegrid.recipe import sparsifiers as specs
from mergegrid.recipe.sparsifiers import (
    Dare,
    DropOnly,
    Magnitude,
    MaskedFinetuned,
    NoSparsifier,
)

RANDOM = [Dare, DropOnly, MaskedFinetuned]
RATES = [0.1, 0.5, 0.9, 0.99]


def apply(spec, expert):
    return {name: SPARSIFIERS[spec.kind](spec, expert, name) for name in expert.names}


def mask(spec, expert, name):
    shape = expert.delta(name).shape
    return keep(spec.seed, expert.name, name, spec.rate, shape).numpy()


def test_every_sparsifier_that_can_be_asked_for_exists():
    assert {spec.model_fields["kind"].default for spec in specs.SPARSIFIERS} == set(SPARSIFIERS)


@pytest.mark.parametrize("rate", RATES)
def test_dare_is_the_masked_delta_over_one_minus_p(math, rate):
    spec = Dare(rate=rate, seed=1)
    for name, result in apply(spec, math).items():
        base, delta = math.base(name).numpy(), math.delta(name).numpy()
        expected = np.where(mask(spec, math, name), delta * np.float32(1 / (1 - rate)), 0)
        assert np.array_equal(result.delta.numpy(), expected)
        assert np.array_equal(result.weight.numpy(), base + expected)


@pytest.mark.parametrize("rate", RATES)
def test_drop_only_gives_the_experts_weight_or_the_bases(math, rate):
    spec = DropOnly(rate=rate, seed=1)
    for name, result in apply(spec, math).items():
        keeps = mask(spec, math, name)
        expected = np.where(keeps, math.expert(name).numpy(), math.base(name).numpy())
        assert np.array_equal(result.weight.numpy(), expected)
        assert np.array_equal(result.delta.numpy(), np.where(keeps, math.delta(name).numpy(), 0))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("scope", ["per_tensor", "global"])
def test_magnitude_keeps_the_largest_deltas(math, rate, rescale, scope):
    results = apply(Magnitude(rate=rate, rescale=rescale, scope=scope), math)
    flat = {name: math.delta(name).numpy().ravel() for name in math.names}
    groups = [math.names] if scope == "global" else [(name,) for name in math.names]
    for group in groups:
        deltas = np.concatenate([flat[name] for name in group])
        got = np.concatenate([results[name].delta.numpy().ravel() for name in group])
        dropped = np.argsort(np.abs(deltas))[: round(rate * len(deltas))]
        scale = np.float32(1 / (1 - rate)) if rescale else 1
        expected = deltas * scale
        expected[dropped] = 0
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("rescale", [False, True])
def test_masked_finetuned_drops_the_weights_themselves(math, rate, rescale):
    spec = MaskedFinetuned(rate=rate, seed=1, rescale=rescale)
    scale = np.float32(1 / (1 - rate)) if rescale else 1
    for name, result in apply(spec, math).items():
        expected = np.where(mask(spec, math, name), math.expert(name).numpy() * scale, 0)
        assert np.array_equal(result.weight.numpy(), expected)
        assert np.array_equal(result.delta.numpy(), expected - math.base(name).numpy())


@pytest.mark.parametrize(
    "spec",
    [NoSparsifier(), Magnitude(rate=0), Magnitude(rate=0, rescale=True)]
    + [kind(rate=0) for kind in RANDOM],
    ids=lambda spec: spec.kind,
)
def test_rate_0_returns_the_expert_to_the_bit(math, spec):
    for name, result in apply(spec, math).items():
        assert result.weight.numpy().tobytes() == math.expert(name).numpy().tobytes()


@pytest.mark.parametrize(
    "spec",
    [Dare(rate=1), DropOnly(rate=1), Magnitude(rate=1), Magnitude(rate=1, rescale=True)],
    ids=lambda spec: spec.kind,
)
def test_rate_1_returns_the_base_to_the_bit(spec):
    base = {"w": torch.tensor([0.0, -0.0, 1.0, -2.5])}
    expert = ExpertDeltas("e", base, {"w": torch.tensor([1.0, 2.0, -0.0, float("3e38")])})
    result = apply(spec, expert)["w"]
    assert result.weight.numpy().tobytes() == base["w"].numpy().tobytes()
    assert torch.equal(result.delta, torch.zeros(4))


def test_masked_finetuned_at_rate_1_leaves_zeros_and_no_nan(math):
    for result in apply(MaskedFinetuned(rate=1), math).values():
        assert torch.equal(result.weight, torch.zeros_like(result.weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_work_is_in_float32_whatever_the_stored_dtype(base, experts, dtype):
    stored = [{k: v.to(dtype) for k, v in each.items()} for each in (base, experts["math"])]
    widened = [{k: v.float() for k, v in each.items()} for each in stored]
    for spec in (Dare(rate=0.9), DropOnly(rate=0.5), Magnitude(rate=0.5), NoSparsifier()):
        got = apply(spec, ExpertDeltas("math", *stored))
        expected = apply(spec, ExpertDeltas("math", *widened))
        for name, result in got.items():
            assert result.weight.dtype == torch.float32
            assert torch.equal(result.weight, expected[name].weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [0.1, 0.9, 0.99, 0.999])
def test_dare_is_unbiased_at_any_rate_and_dtype(dtype, rate):
    count = 1_000_000
    base = {"w": torch.zeros(count, dtype=dtype)}
    expert = {"w": torch.full((count,), 0.001, dtype=dtype)}
    kept = apply(Dare(rate=rate), ExpertDeltas("e", base, expert))["w"].delta
    ratio = kept.double().mean().item() / expert["w"].double()[0].item()
    assert abs(ratio - 1) < 4 * np.sqrt(rate / (1 - rate) / count)
