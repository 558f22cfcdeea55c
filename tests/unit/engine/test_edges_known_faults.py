"""The ends of the rates, and tensors of every awkward size and number."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.dtypes import DTYPES, decode, encode
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.delta_reports.sizes import delta_sizes
from mergegrid.engine.engine import Engine, EngineOptions
from mergegrid.engine.masks import threshold
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.thresholds import Cut
from mergegrid.errors import CheckpointError
from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.model_stock import ModelStock
from mergegrid.methods.sce import Sce
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned

from ..conftest import Memory

#: Largest, smallest, subnormal and negative zero of float16, and what others round.
NUMBERS = [0.0, -0.0, 1.0, -1.0, 2**-14, 2**-24, -(2**-24), 65504.0, 0.5, 1e-3]
SPECIAL = np.array(NUMBERS, np.float32)
SHAPES = [(), (1,), (0,), (3, 0), (0, 3), (1, 1), (5,), (7, 3), (2, 3, 4), (65_537,)]
SPECS = [
    Dare,
    DropOnly,
    Della,
    Breadcrumbs,
    MaskedFinetuned,
    Magnitude,
    lambda rate: Magnitude(rate=rate, scope="global", rescale=True),
    lambda rate: Magnitude(rate=rate, arithmetic="reference"),
    lambda rate: Breadcrumbs(rate=rate, scope="global"),
    lambda rate: MaskedFinetuned(rate=rate, rescale=False),
    lambda rate: Dare(rate=0.5, rates={"math": rate}),
    lambda rate: DropOnly(rate=0.5, rules=[{"tensors": "*", "rate": rate}]),
]


def stored(values, dtype):
    """Numbers as a checkpoint of this dtype holds them, as float32."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    rounded, back = np.empty(flat.size, DTYPES[dtype].numpy), np.empty_like(flat)
    encode(flat, DTYPES[dtype], rounded)
    decode(rounded, DTYPES[dtype], back)
    return back.reshape(np.shape(values))


def models(dtype, shapes=SHAPES):
    random = np.random.default_rng(0)
    base, expert = {}, {}
    for number, shape in enumerate(shapes):
        name = f"layers.{number}.weight"
        base[name] = stored(random.choice(SPECIAL, shape), dtype)
        expert[name] = stored(random.choice(SPECIAL, shape), dtype)
    return base, expert


def merged(base, experts, sparsifier, method=None, dtype="float32", options=None):
    information = {
        name: {key: np.abs(values) for key, values in each.items()}
        for name, each in experts.items()
    }
    engine = Engine(
        InMemory(base),
        {name: InMemory(each) for name, each in experts.items()},
        {name: InMemory(each) for name, each in information.items()},
        options or EngineOptions(chunk_size=1 << 16, threads=2),
    )
    recipe = {"family": "f", "experts": tuple(experts), "method": method or Average()}
    if sparsifier:
        recipe["sparsifier"] = sparsifier
    sink = Memory(engine.base.infos, dtype)
    engine.stream([(engine.bind(Recipe(**recipe)), sink)])
    return sink.tensors


def as_stored(values, dtype):
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    rounded = np.empty(flat.size, DTYPES[dtype].numpy)
    encode(flat, DTYPES[dtype], rounded)
    return rounded.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", SPECS)
def test_rate_zero_is_the_expert_and_rate_one_the_base_to_the_bit(spec, dtype):
    base, expert = models(dtype)
    for rate in (0, 1, 0.0, 1.0):
        found = merged(base, {"math": expert}, spec(rate=rate), dtype=dtype)
        nothing = {name: np.zeros_like(each) for name, each in base.items()}
        gone = nothing if isinstance(spec(rate=rate), MaskedFinetuned) else base
        wanted = gone if rate else expert
        for name in base:
            assert found[name].shape == base[name].shape
            assert found[name].tobytes() == as_stored(wanted[name], dtype), name


@pytest.mark.parametrize("spec", SPECS[:6])
@pytest.mark.parametrize("rate", [5e-324, 1e-12, 2**-33, 1 - 2**-33, 1 - 2**-53])
def test_rates_next_to_the_ends_make_no_number_that_is_none(spec, rate):
    spec = spec(rate=max(rate, 0.01) if spec is Breadcrumbs else rate)
    base = {"w": np.linspace(-1, 1, 999, dtype=np.float32)}
    expert = {"w": base["w"] + np.float32(2**-10)}
    found = merged(base, {"math": expert}, spec)["w"]
    assert np.isfinite(found).all()
    near = expert["w"] if rate < 0.5 else base["w"] * (spec.kind != "masked_finetuned")
    np.testing.assert_allclose(found, near, atol=0.02 if spec.kind == "breadcrumbs" else 1e-6)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("spec", [*SPECS, None])
@pytest.mark.parametrize("rate", [0, 0.5, 1])
def test_an_expert_that_is_not_finite_is_refused_though_it_is_dropped(spec, rate, number):
    base, expert = models("float32", [(5,), (70_000,)])
    expert["layers.1.weight"][69_999] = number
    with pytest.raises(CheckpointError, match=r"math holds -?(inf|nan) in layers\.1\.weight"):
        merged(base, {"math": expert}, spec and spec(rate=rate))


@pytest.mark.parametrize(
    "method",
    [
        Average(),
        TaskArithmetic(coefficient=0.5),
        Ties(),
        Ties(scope="per_tensor", trim=0.5),
        Ties(arithmetic="reference"),
        Slerp(),
        ModelStock(),
        Sce(select=0.5),
        Fisher(normalize=True),
    ],
    ids=lambda method: method.kind,
)
@pytest.mark.parametrize("spec", [None, *SPECS[:9]])
def test_tensors_of_every_size_are_merged(method, spec):
    base, first = models("float32")
    second = {name: np.float32(0.25) * each + 1 for name, each in first.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = merged(base, {"math": first, "code": second}, spec and spec(rate=0.5), method)
    for name, each in base.items():
        assert found[name].shape == each.shape
        assert np.isfinite(found[name]).all()


@pytest.mark.parametrize("shapes", [[(), (0,)], [(0,), (3,), (2, 0)]])
def test_the_sizes_of_deltas_of_empty_and_single_tensors(shapes):
    base, expert = models("float32", shapes)
    whole, *tensors = delta_sizes(InMemory(base), InMemory(expert))
    assert whole.n == sum(each.size for each in base.values())
    assert [each.n for each in tensors] == [each.size for each in base.values() if each.size]
    assert all(np.isfinite(each.mean) for each in tensors)


@given(
    arrays.arrays(np.float32, st.integers(0, 40), elements=st.sampled_from(SPECIAL.tolist())),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from(range(len(SPECS))),
)
def test_the_ends_of_the_rates_for_any_numbers(values, rate, number):
    base = {"w": values[::-1].copy()}
    spec = SPECS[number](rate=rate)
    found = merged(base, {"math": {"w": values}}, spec)["w"]
    gone = np.zeros_like(values) if spec.kind == "masked_finetuned" else base["w"]
    assert found.tobytes() == (gone if rate else values).tobytes()


@pytest.mark.parametrize(
    "start", [0, 2**31 - 4, 2**31, 2**32 - 4, 2**32, 2**34 - 1024, 2**34, 2**40, 2**61]
)
def test_masks_go_on_beyond_32_bits(start):
    """An element of a tensor larger than memory, by the definition of the generator."""
    key, count = (1, 2, 3, 4), 2048
    ops = CpuOperations()
    drawn = ops.values(ops.random_words(key, start, count)).view(np.uint32).copy()
    assert drawn.tolist() == philox(key, start // 4, count // 4)
    # As one chunk, and as two.
    for half in (0, count // 2):
        part = ops.values(ops.random_words(key, start + half, count // 2)).view(np.uint32)
        assert part.tolist() == drawn[half : half + count // 2].tolist()


def philox(key, first, blocks):
    """Philox4x32-10 in whole numbers of Python, which never overflow."""
    found = []
    for block in range(first, first + blocks):
        x0, x1, x2, x3 = block % 2**32, block >> 32, key[2], key[3]
        k0, k1 = key[0], key[1]
        for _ in range(10):
            p0, p1 = x0 * 0xD2511F53, x2 * 0xCD9E8D57
            x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ k0, p1 % 2**32, (p0 >> 32) ^ x3 ^ k1, p0 % 2**32
            k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
        found += [x0, x1, x2, x3]
    return found


@pytest.mark.parametrize("start", [0, 2**31, 2**32, 2**40])
def test_selections_keep_the_first_of_equals_beyond_32_bits(start):
    class Chunk:
        name, ops = "w", CpuOperations()

    Chunk.start = start
    room = Chunk.ops.buffer(6, DTYPES["float32"])
    room[:] = [1, 2, 1, 1, 0, 3]
    values = Chunk.ops.load(room, DTYPES["float32"])
    cut = Cut(int(np.float32(1).view(np.uint32)), ("w",), (0, start + 3))
    assert Chunk.ops.values(cut.keep(Chunk, values)).tolist() == [1, 2, 1, 0, 0, 3]


@pytest.mark.parametrize(
    ("rate", "kept"), [(0, 2**32), (1, 0), (0.5, 2**31), (2**-33, 2**32), (1 - 2**-34, 0)]
)
def test_all_words_keep_at_rate_zero_and_none_at_rate_one(rate, kept):
    assert threshold(rate) == kept
    ops = CpuOperations()
    room = ops.buffer(5000, DTYPES["float32"])
    room[:] = 1
    values = ops.load(room, DTYPES["float32"])
    drawn = ops.thin(ops.random_words((1, 2, 3, 4), 0, 5000), threshold(rate), values, 1.0)
    share = ops.values(drawn).mean()
    assert share == pytest.approx(kept / 2**32, abs=0.05)
    assert kept not in (0, 2**32) or share == kept / 2**32


@pytest.mark.parametrize(
    ("dtype", "code"),
    [("int64", "I64"), ("int32", "I32"), ("bool", "BOOL"), ("uint8", "U8"), ("float64", "F64")],
)
@pytest.mark.parametrize("shape", [(), (0,), (1, 4)])
def test_buffers_that_are_no_parameters_are_refused_by_name(tmp_path, dtype, code, shape):
    tensors = {"quantized": np.zeros(shape, dtype), "w": np.zeros(3, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"quantized in .* is stored as {code}; only"):
        open_checkpoint(tmp_path)


def test_constants_are_left_out(tmp_path):
    tensors = {"embeddings.position_ids": np.arange(4), "w": np.zeros(3, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path)) == ["w"]
