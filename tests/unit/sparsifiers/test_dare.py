"""DARE from folder to numbers: every dtype, drop rate and size of tensor."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binom

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.engine.engine import Engine
from mergegrid.methods.average import Average
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare

RATES = [0, 0.1, 0.5, 0.9, 0.99, 0.999, 1]
COUNTS = {f"tensor_of_{count}": count for count in (1, 64, 768, 1_000_000)}
NAMES = ("math", "code", "chat")
#: Elements of the base that are -0.0, and that no expert changes.
NEGATIVE_ZEROS = slice(3, 64, 7)


def recipe(rate, names=("math",), method=None):
    return Recipe(
        family="toy", experts=names, sparsifier=Dare(rate=rate), method=method or Average()
    )


@pytest.fixture(scope="module", params=list(DTYPES))
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def engine(dtype, tmp_path_factory):
    """Models on disk; deltas are 5 to 50 % of the base, so that every dtype holds them apart."""
    random = np.random.default_rng(0)
    models = {}
    base = {name: random.standard_normal(count) * 0.02 for name, count in COUNTS.items()}
    for name in ("base", *NAMES):
        models[name] = {}
        for tensor, values in base.items():
            change = random.uniform(0.05, 0.5, values.size) * random.choice([-1, 1], values.size)
            new = values if name == "base" else values * (1 + change)
            new = np.where(np.abs(values) < 1e-3, values + (name != "base") * 1e-3, new)
            new[NEGATIVE_ZEROS] = -0.0
            models[name][tensor] = torch.from_numpy(new).to(getattr(torch, dtype))
    opened = {}
    for name, tensors in models.items():
        folder = tmp_path_factory.mktemp("models") / name
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        opened[name] = open_checkpoint(folder)
    return Engine(opened.pop("base"), opened)


@pytest.fixture(scope="module")
def tables(engine, stream):
    """Base, expert and, at every rate, what DARE makes of it, in float32."""
    merged = stream(engine, [recipe(rate) for rate in RATES])
    return dict(engine.base), dict(engine.models["math"]), dict(zip(RATES, merged, strict=True))


def stored(checkpoint):
    """The bytes of every tensor as they lie in its file."""
    return {
        name: checkpoint.read(name, 0, info.count, np.empty(info.count, info.dtype.numpy)).tobytes()
        for name, info in checkpoint.infos.items()
    }


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("rate", RATES)
def test_the_share_of_kept_deltas_is_binomial(tables, rate, name):
    base, expert, merged = tables
    differs = expert[name] != base[name]
    kept = (merged[rate][name] != base[name]).sum()
    # Two of a billion such tests would fail for a sampler that is perfect.
    low, high = binom.ppf([1e-9, 1 - 1e-9], differs.sum(), 1 - rate)
    assert low <= kept <= high


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("rate", RATES[:-1])
def test_dare_is_unbiased(tables, rate, name):
    base, expert, merged = tables
    differs = expert[name] != base[name]
    change = merged[rate][name].astype(np.float64) - base[name]
    ratio = change[differs] / (expert[name].astype(np.float64) - base[name])[differs]
    error = np.sqrt(rate / (1 - rate) / differs.sum())
    # Rounding to float32 moves a ratio by less than a millionth.
    assert abs(ratio.mean() - 1) <= 4 * error + 1e-6


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("rate", RATES[1:-1])
def test_every_element_is_the_bases_or_base_plus_delta_over_one_minus_p(tables, rate, name):
    base, expert, merged = tables
    scaled = (expert[name] - base[name]) * np.float32(1 / (1 - rate))
    dropped = merged[rate][name].view(np.uint32) == base[name].view(np.uint32)
    kept = merged[rate][name].view(np.uint32) == (base[name] + scaled).view(np.uint32)
    assert (dropped | kept).all()


@pytest.mark.parametrize("rate", RATES)
def test_nothing_becomes_nan_or_infinite(tables, rate):
    assert all(np.isfinite(tensor).all() for tensor in tables[2][rate].values())


def test_rate_0_returns_the_expert_to_the_bit(engine, stream, dtype):
    (merged,) = stream(engine, [recipe(0)], dtype)
    expected = stored(engine.models["math"])
    assert {name: tensor.tobytes() for name, tensor in merged.items()} == expected


@pytest.mark.parametrize("names", [("math",), NAMES], ids=["one", "three"])
@pytest.mark.parametrize(
    "method",
    [
        Average(),
        TaskArithmetic(coefficient=0.7),
        Ties(trim=0.8),
        Ties(trim=0.8, scope="per_tensor"),
    ],
    ids=lambda method: f"{method.kind}-{getattr(method, 'scope', '')}",
)
def test_rate_1_returns_the_base_to_the_bit(engine, stream, dtype, method, names):
    (merged,) = stream(engine, [recipe(1, names, method)], dtype)
    assert {name: each.tobytes() for name, each in merged.items()} == stored(engine.base)


@pytest.mark.parametrize(
    "method", [Average(), TaskArithmetic(), Ties(trim=0.5)], ids=lambda method: method.kind
)
@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_a_negative_zero_of_the_base_survives(engine, stream, dtype, rate, method):
    (merged,) = stream(engine, [recipe(rate, NAMES, method)], dtype)
    for name, count in COUNTS.items():
        if count > 3:
            negative = np.signbit(engine.base[name])
            zeros = merged[name][NEGATIVE_ZEROS].view(f"u{DTYPES[dtype].size}")
            assert negative[NEGATIVE_ZEROS].all()
            assert (zeros == 1 << (8 * DTYPES[dtype].size - 1)).all()


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_work_is_in_float32_and_rounded_once(tables, engine, stream, dtype, rate):
    (merged,) = stream(engine, [recipe(rate)], dtype)
    for name, tensor in merged.items():
        exact = torch.from_numpy(tables[2][rate][name])
        rounded = exact.to(getattr(torch, dtype)).view(torch.uint8).numpy()
        assert tensor.tobytes() == rounded.tobytes()
