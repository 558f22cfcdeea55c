"""Torch gives the bits that the CPU's own arithmetic gives, operation by operation and whole."""

from functools import partial

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.torch_tensors import OnDevice
from mergegrid.engine.engine import Engine, EngineOptions
from mergegrid.engine.masks import mask_key
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN, HIGH_BINS
from mergegrid.engine.ops.torch_operations import TorchOperations, check_device
from mergegrid.errors import ConfigError
from mergegrid.kernels.opcodes import GUESSES
from mergegrid.methods import METHODS, AnyMethod
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers import SPARSIFIERS, AnySparsifier
from mergegrid.sparsifiers.rates import RatedSparsifier

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    ),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)
ROW = 11
N = ROW * (GRAIN // ROW + 22)


def drawn(kind):
    random = np.random.default_rng(len(kind))
    values = random.standard_normal(N).astype(np.float32)
    zeros = np.array([0.0, -0.0], np.float32)
    return {
        "random": lambda: values,
        "zeros": lambda: random.choice(zeros, N),
        "some zeros": lambda: np.where(random.random(N) < 0.5, random.choice(zeros, N), values),
        "subnormal": lambda: (values * np.float32(1e-40)).astype(np.float32),
        "all sizes": lambda: values * np.float32(10) ** random.integers(-44, 6, N).astype("f4"),
        "ties": lambda: random.integers(-2, 3, N).astype(np.float32) * np.float32(0.25),
    }[kind]()


def bits_of(value):
    return int(np.float32(value).view(np.uint32))


KINDS = ["random", "zeros", "some zeros", "subnormal", "all sizes", "ties"]
WEIGHTS = [0.3, 0.0, 1.7]
KEY = mask_key(3, "math", "layer.weight")
PARAMETERS = {
    "subtract": lambda ops, x, y, z: ops.subtract(x, y),
    "product": lambda ops, x, y, z: ops.product(x, y),
    "quotient": lambda ops, x, y, z: ops.quotient(x, ops.plus_number(ops.product(y, y), 1e-6)),
    "plus_number": lambda ops, x, y, z: ops.plus_number(x, 0.1),
    "divided": lambda ops, x, y, z: ops.divided(x, 3),
    "scaled": lambda ops, x, y, z: ops.scaled(x, 1 / (1 - 0.9)),
    "weighted_mean": lambda ops, x, y, z: ops.weighted_mean([x, y, z], WEIGHTS),
    "weighted_mean of two": lambda ops, x, y, z: ops.weighted_mean([x, x], [1.0, 1.0]),
    "weighted_sum": lambda ops, x, y, z: ops.weighted_sum([x, y, z], WEIGHTS),
    "weighted_sum of one": lambda ops, x, y, z: ops.weighted_sum([x], [0.3]),
    "plus": lambda ops, x, y, z: ops.plus(x, y, 0.7),
    "plus of nothing": lambda ops, x, y, z: ops.plus(x, y, 0.0),
    "instead": lambda ops, x, y, z: ops.where_changed(x, y, z),
    "words": lambda ops, x, y, z: ops.random_words(KEY, GRAIN * 5, 4 * 1001 + 3),
    "words beyond 2^32 blocks": lambda ops, x, y, z: ops.random_words(KEY, 2**34 - 400, 804),
    **{
        f"thin at {limit}": lambda ops, x, y, z, limit=limit: ops.thin(
            ops.random_words(KEY, 0, N), limit, x, 10.0
        )
        for limit in (0, 1, 2**31 + 12345, 2**32 - 1, 2**32)
    },
    "agreeing_mean": lambda ops, x, y, z: ops.agreeing_mean([x, y, z], [1.0, 1.0, 1.0]),
    "agreeing_mean, weighted": lambda ops, x, y, z: ops.agreeing_mean([x, y, z], WEIGHTS, 1.0),
    "agreeing_mean, down": lambda ops, x, y, z: ops.agreeing_mean([x, y], [1.0, 2.0], -1.0),
    "agreeing_mean of one": lambda ops, x, y, z: ops.agreeing_mean([x], [0.2]),
    **{
        f"elected_sum, {form}": lambda ops, x, y, z, form=form: ops.elected_sum(
            [x, y, z], WEIGHTS, *form
        )
        for form in ((0.0, True), (0.0, False), (1.0, True), (1.0, False))
    },
    "elected_sum of one": lambda ops, x, y, z: ops.elected_sum([x], [0.2], 0.0, True),
    "keep_large, all": lambda ops, x, y, z: ops.keep_large(x, 0, 5),
    **{
        f"keep_large, equals before {place}": lambda ops, x, y, z, place=place: ops.keep_large(
            x, bits_of(0.25), place
        )
        for place in (-7, 0, N // 2, N, 1 << 62)
    },
    "where_nonzero": lambda ops, x, y, z: ops.where_nonzero(x, y),
    "exceeds": lambda ops, x, y, z: ops.exceeds(x, y, 0.7),
    "exceeds itself": lambda ops, x, y, z: ops.exceeds(x, x, 1.0),
    **{
        f"thin_by_rank in rows of {row}": lambda ops, x, y, z, row=row: ops.thin_by_rank(
            ops.random_words(KEY, 0, N), x, row, 0.8, 1.0
        )
        for row in (ROW, 1, N)
    },
    **{
        f"keep_of_blocks, {count} of {block}": lambda ops, x, y, z, count=count, block=block: (
            ops.keep_of_blocks(x, count, block)
        )
        for count, block in ((1, 4), (3, 32), (64, 256), (4, 4))
    },
    "times_matrices": lambda ops, x, y, z: ops.times_matrices([x, y], MATRICES, ROW),
}
MATRICES = list(np.random.default_rng(0).standard_normal((2, ROW, ROW)))
NUMBERS = {
    "net_sign": lambda ops, x, y: ops.net_sign(x),
    "count_high": lambda ops, x, y: filled(HIGH_BINS + 1, lambda into: ops.count_high(x, into)),
    "count_equal": lambda ops, x, y: ops.count_equal(x, bits_of(0.25)),
    "count_equal to zero": lambda ops, x, y: ops.count_equal(x, 0),
    "count_near": lambda ops, x, y: near(ops, x, bits_of(0.2), 1 << 23, 7, [bits_of(0.25)]),
    "count_near, four guesses": lambda ops, x, y: near(
        ops, x, bits_of(0.2), 1 << 23, 11, [bits_of(value) for value in (0.25, 0.3, 0.2, 0.21)]
    ),
    "count_near, no guess": lambda ops, x, y: near(ops, x, bits_of(0.25), 64, 0, []),
    "count_near, one in the end": lambda ops, x, y: near(ops, x, bits_of(0.2), 1000, 9, []),
    "count_near zero": lambda ops, x, y: near(ops, x, 0, 1 << 16, 0, [0]),
    **{
        f"list_near, {name}": lambda ops, x, y, asked=asked: np.concatenate(
            ops.list_near(x, *asked)
        )
        for name, asked in {
            "no guess": (bits_of(0.2), 1 << 23, [], N),
            "four guesses": (bits_of(0.2), 1 << 25, [bits_of(x) for x in (0.25, 0.3, 1, 2)], N),
            "only a few": (0, 1 << 31, [0], 5),
            "none": (bits_of(0.2), 1 << 24, [bits_of(0.25)], 0),
        }.items()
    },
    "dots": lambda ops, x, y: ops.dots(x, y).view(np.int64),
    "dots_of": lambda ops, x, y: ops.dots_of([(x, y), (y, y)]).view(np.int64),
}


def filled(length, count):
    counts = np.ones(length, np.int64)
    count(counts)
    return counts


def near(ops, values, low, width, shift, guesses):
    counts = np.ones(1 + GUESSES + -(-width // (1 << shift)), np.int64)
    ops.count_near(values, low, width, shift, guesses, counts)
    return counts


def loaded(ops, values):
    return ops.load(values, DTYPES["float32"])


def bits(ops, values):
    """What an operation gave, as whole numbers that can be compared."""
    values = ops.values(values)
    if isinstance(values, torch.Tensor):
        values = values.cpu().numpy()
    return values.view(np.uint32) if values.dtype == np.float32 else values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_every_operation_gives_the_bits_of_the_cpu(device, name, kind):
    inputs = drawn(kind), drawn("random"), drawn("some zeros")
    found = []
    for ops in (CpuOperations(), TorchOperations(device)):
        found.append(bits(ops, PARAMETERS[name](ops, *(loaded(ops, x) for x in inputs))))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_near_is_listed_in_order_and_guesses_are_counted(device, kind):
    values = drawn(kind)
    magnitudes = np.abs(values).view(np.uint32)
    low, width, guesses = bits_of(0.2), 1 << 25, [bits_of(x) for x in (0.25, 0.5, 0.3)]
    inside = (magnitudes >= low) & (magnitudes < low + width) & ~np.isin(magnitudes, guesses)
    equal = [np.count_nonzero(magnitudes == guess) for guess in guesses]
    wanted = [np.count_nonzero(magnitudes < low), *equal, 0, np.count_nonzero(inside)]
    for ops in (CpuOperations(), TorchOperations(device)):
        counts, others = ops.list_near(loaded(ops, values), low, width, guesses, N)
        assert counts.tolist() == wanted
        np.testing.assert_array_equal(others, magnitudes[inside])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NUMBERS)
def test_everything_counted_or_summed_is_what_the_cpu_finds(device, name, kind):
    inputs = drawn(kind), drawn("random")
    found = []
    for ops in (CpuOperations(), TorchOperations(device)):
        found.append(NUMBERS[name](ops, *(loaded(ops, x) for x in inputs)))
    np.testing.assert_array_equal(*found)


def test_what_is_shorter_than_a_grain_is_summed_as_on_the_cpu(device):
    left, right = drawn("random")[:1005], drawn("all sizes")[:1005]
    found = [
        ops.dots(loaded(ops, left), loaded(ops, right))
        for ops in (CpuOperations(), TorchOperations(device))
    ]
    np.testing.assert_array_equal(*found)


def test_equals_are_found_in_their_order(device):
    values = drawn("ties")
    places = np.flatnonzero(np.abs(values) == 0.25)
    for ops in (CpuOperations(), TorchOperations(device)):
        for rank in (0, 5, len(places) - 1):
            assert ops.place_of_equal(loaded(ops, values), bits_of(0.25), rank) == places[rank]
        with pytest.raises(IndexError):
            ops.place_of_equal(loaded(ops, values), bits_of(0.25), len(places))


def test_what_is_loaded_from_the_device_itself_is_checked_too(device):
    ops, float32 = TorchOperations(device), DTYPES["float32"]
    spoiled = torch.tensor([1.0, float("nan")], device=device)
    dropped = ops.scaled(ops.load(spoiled, float32).nan_to_num(), 0.0)
    ((_, finite),) = ops.store([dropped], [float32])
    assert not finite
    ops.restart()
    ((_, finite),) = ops.store([ops.load(torch.ones(2, device=device), float32)], [float32])
    assert finite


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_stored_and_loaded_as_on_the_cpu(device, kind, dtype):
    values, (host, ops) = drawn(kind), (CpuOperations(), TorchOperations(device))
    ((stored, finite),) = host.store([loaded(host, values)], [dtype])
    ((ours, also),) = ops.store([loaded(ops, values)], [dtype])
    assert also == finite
    np.testing.assert_array_equal(ours.view(np.uint8), stored.view(np.uint8))
    np.testing.assert_array_equal(
        bits(ops, ops.load(stored, dtype)), bits(host, host.load(stored, dtype))
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, np.float32(3.4e38)])
def test_what_a_dtype_cannot_hold_is_told(device, wrong, dtype):
    values = np.array([1.0, wrong], np.float32)
    for ops in (CpuOperations(), TorchOperations(device)):
        ((_, finite),) = ops.store([loaded(ops, values)], [dtype])
        assert finite == (np.isfinite(wrong) and dtype.name == "float32")


def test_a_tensor_on_the_device_is_not_copied(device):
    values = torch.ones(5, device=device)
    assert TorchOperations(device).load(values, DTYPES["float32"]) is values


SHAPES = {"embedding.weight": (70, 40), "layer.bias": (40,), "layer.weight": (40, 40)}
SPARSE = {
    "none": {},
    "breadcrumbs": {"rate": 0.6, "largest": 0.1, "scope": "global"},
    "magnitude": {"rate": 0.6, "scope": "global", "rescale": True},
}
MERGED = {
    "average": {"weights": {"a": 0.25}},
    "task_arithmetic": {"coefficient": 0.3, "coefficients": {"b": 0.5}},
    "ties": {"trim": 0.5, "arithmetic": "reference"},
    "sce": {"select": 0.4},
    "fisher": {"normalize": True},
    "slerp": {"weights": {"a": 0.2}},
    "emr": {"expert": "b"},
    "tall_mask": {"expert": "b"},
}


def models(count):
    random = np.random.default_rng(0)

    def made(scale, near):
        return {
            name: near.get(name, 0) + random.standard_normal(shape).astype(np.float32) * scale
            for name, shape in SHAPES.items()
        }

    base = made(np.float32(0.02), {})
    return base, {name: made(np.float32(0.002), base) for name in "abc"[:count]}


def statistics(kind, experts):
    random = np.random.default_rng(1)
    if kind == "fisher":
        return {
            name: InMemory({each: random.random(shape) ** 4 for each, shape in SHAPES.items()})
            for name in experts
        }
    inputs = random.standard_normal((len(experts), 90, 40))
    return {
        name: InMemory({"layer.weight": x.T @ x}) for name, x in zip(experts, inputs, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("sparsifier", list(SPARSIFIERS))
def test_every_merge_gives_the_bits_of_the_default_engine(device, sparsifier, method):
    base, experts = models(2 if METHODS[method].expert_count[1] == 2 else 3)
    rate = {"rate": 0.6} if issubclass(SPARSIFIERS[sparsifier], RatedSparsifier) else {}
    front = {"kind": sparsifier, **rate, **SPARSE.get(sparsifier, {})}
    recipe = Recipe(
        family="tiny",
        experts=tuple(experts),
        sparsifier=TypeAdapter(AnySparsifier).validate_python(front),
        method=TypeAdapter(AnyMethod).validate_python({"kind": method, **MERGED.get(method, {})}),
    )
    known = statistics(method, experts)
    held = {name: InMemory(tensors) for name, tensors in experts.items()}
    expected = Engine(InMemory(base), held, known).checkpoint(recipe)
    settings = EngineOptions(operations=partial(TorchOperations, device))
    there = {name: OnDevice(tensors, device) for name, tensors in experts.items()}
    for ours in (
        Engine(InMemory(base), held, known, settings),
        Engine(OnDevice(base, device), there, known, settings),
    ):
        merged = ours.checkpoint(recipe)
        for name in SHAPES:
            assert merged[name].device.type == device
            np.testing.assert_array_equal(
                merged[name].cpu().numpy().view(np.uint32), expected[name].view(np.uint32)
            )


def test_a_device_that_is_not_there_is_refused(device, monkeypatch):
    check_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"torch .* sees no such device; install a CUDA build"):
        check_device("cuda")
