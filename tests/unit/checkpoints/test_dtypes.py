"""Stored numbers against torch: every one of them read, and millions rounded."""

import numpy as np
import pytest
import torch

from mergegrid.checkpoints.dtypes import DTYPES, decode, dtype_of, encode, is_finite
from mergegrid.errors import CheckpointError

NARROW = ["bfloat16", "float16"]
#: Float32 bits of the numbers at which rounding to float16 and bfloat16 changes its ways.
EDGES = [
    *(0x00000000, 0x00000001, 0x007FFFFF, 0x00800000),  # Zero, float32 subnormals.
    *(0x33000000, 0x33800000, 0x33C00000),  # Half of float16's smallest, it, one and a half.
    *(0x387FC000, 0x387FE000, 0x387FF000, 0x38800000),  # Up to its smallest normal.
    *(0x477FE000, 0x477FEFFF, 0x477FF000, 0x47800000),  # Its largest, and the first to overflow.
    *(0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000),  # The same for bfloat16, and infinity.
    *(0x7F800001, 0x7F80FFFF, 0x7F8FFFFF, 0x7FC00000, 0x7FFFFFFF),  # NaNs.
]


def decoded(bits, dtype):
    out = np.full(len(bits), 7, np.float32)
    decode(bits.view(DTYPES[dtype].numpy), DTYPES[dtype], out)
    return out


def encoded(values, dtype):
    out = np.full(len(values), 7, DTYPES[dtype].numpy)
    encode(values, DTYPES[dtype], out)
    return out


def rounded_by_torch(values, dtype):
    return torch.from_numpy(values).to(getattr(torch, dtype)).view(torch.uint16).numpy()


def agrees_with_torch(bits, dtype):
    """Whether float32 bits are rounded as torch does; of a NaN only that it stays one."""
    values = bits.astype(np.uint32).view(np.float32)
    got, expected = encoded(values, dtype).view(np.uint16), rounded_by_torch(values, dtype)
    is_nan = np.isnan(values)
    return (
        np.array_equal(got[~is_nan], expected[~is_nan])
        and np.isnan(decoded(got[is_nan], dtype)).all()
    )


def with_neighbours(bits, reach):
    steps = np.arange(-reach, reach + 1, dtype=np.int64)
    near = np.asarray(bits, np.int64)[:, None] + steps
    return np.concatenate([near, near + 0x80000000]).ravel() & 0xFFFFFFFF


@pytest.mark.parametrize("dtype", NARROW)
def test_every_stored_number_is_read_as_torch_reads_it(dtype):
    bits = np.arange(1 << 16).astype(np.uint16)
    expected = torch.from_numpy(bits).view(getattr(torch, dtype)).float().numpy()
    got = decoded(bits, dtype)
    is_nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), is_nan)
    assert np.array_equal(got.view(np.uint32)[~is_nan], expected.view(np.uint32)[~is_nan])


@pytest.mark.parametrize("dtype", NARROW)
def test_what_is_read_is_written_back_to_the_bit(dtype):
    bits = np.arange(1 << 16).astype(np.uint16)
    values = decoded(bits, dtype)
    finite = ~np.isnan(values)
    assert np.array_equal(encoded(values, dtype).view(np.uint16)[finite], bits[finite])


@pytest.mark.parametrize("dtype", NARROW)
def test_random_bits_are_rounded_as_torch_rounds_them(dtype):
    bits = np.random.default_rng(0).integers(0, 1 << 32, 2_000_000, dtype=np.uint32)
    assert agrees_with_torch(bits, dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_ties_go_to_the_even_number_and_near_ties_to_the_nearer_one(dtype):
    stored = decoded(np.arange(1 << 16).astype(np.uint16), dtype)
    stored = np.unique(stored[np.isfinite(stored) & (stored >= 0)]).astype(np.float64)
    ties = ((stored[1:] + stored[:-1]) / 2).astype(np.float32)
    assert agrees_with_torch(with_neighbours(ties.view(np.uint32), 3), dtype)
    bits = encoded(ties, dtype).view(np.uint16)
    assert not (bits & 1).any()


@pytest.mark.parametrize("dtype", NARROW)
def test_subnormals_overflow_and_nan_are_rounded_as_torch_does(dtype):
    assert agrees_with_torch(with_neighbours(EDGES, 300), dtype)


def test_numbers_of_the_size_of_parameters_are_rounded_as_torch_does():
    random = np.random.default_rng(1)
    sizes = 10.0 ** random.uniform(-12, 6, 1_000_000)
    values = (random.standard_normal(1_000_000) * sizes).astype(np.float32)
    assert all(agrees_with_torch(values.view(np.uint32), dtype) for dtype in NARROW)


def test_float32_is_read_and_written_as_it_is():
    bits = np.random.default_rng(2).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    assert np.array_equal(decoded(bits, "float32").view(np.uint32), bits)
    assert np.array_equal(encoded(bits.view(np.float32), "float32").view(np.uint32), bits)


def test_nothing_is_read_and_written_where_there_is_nothing():
    for dtype in DTYPES:
        assert decoded(np.empty(0, DTYPES[dtype].numpy), dtype).size == 0
        assert encoded(np.empty(0, np.float32), dtype).size == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_one_infinity_or_nan_is_found_wherever_it_stands(dtype, value, place):
    values = np.random.default_rng(3).standard_normal(1001).astype(np.float32)
    assert is_finite(encoded(values, dtype), DTYPES[dtype])
    values[place] = value
    assert not is_finite(encoded(values, dtype), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_infinity_and_nan_is_told_from_all_finite_numbers(dtype):
    size = DTYPES[dtype].size * 8
    bits = np.arange(1 << 16).astype(np.uint32) << (size - 16)
    stored = bits.astype(f"u{size // 8}").view(DTYPES[dtype].numpy)
    finite = np.isfinite(decoded(stored, dtype))
    assert is_finite(stored[finite], DTYPES[dtype])
    few = stored[finite][:33].copy()
    for wrong in stored[~finite]:
        few[17] = wrong
        assert not is_finite(few, DTYPES[dtype])


def test_rounding_to_float16_can_overflow_and_is_noticed():
    values = np.array([65504, 65519.996, 65520], np.float32)
    stored = encoded(values, "float16")
    assert stored.tolist() == [65504, 65504, np.inf]
    assert is_finite(stored[:2], DTYPES["float16"])
    assert not is_finite(stored, DTYPES["float16"])


@pytest.mark.parametrize(("code", "name"), [("F32", "float32"), ("BF16", "bfloat16")])
def test_the_codes_of_safetensors_name_dtypes(code, name):
    assert dtype_of(code, "w") is DTYPES[name]


@pytest.mark.parametrize("code", ["F64", "I64", "F8_E4M3", "U8"])
def test_a_type_that_cannot_be_merged_is_refused_by_name(code):
    with pytest.raises(CheckpointError, match=rf"w in x is stored as {code}; only F32, BF16, F16"):
        dtype_of(code, "w in x")


def test_arrays_that_do_not_fit_together_are_refused():
    values, bfloat16 = np.zeros(4, np.float32), DTYPES["bfloat16"]
    with pytest.raises(ValueError, match="4 elements do not fit an array of 3"):
        encode(values, bfloat16, np.zeros(3, np.uint16))
    with pytest.raises(ValueError, match="contiguous array of float32, got float64"):
        encode(values.astype(np.float64), bfloat16, np.zeros(4, np.uint16))
    with pytest.raises(ValueError, match="contiguous: False"):
        decode(np.zeros(8, np.uint16)[::2], bfloat16, values)
    with pytest.raises(ValueError, match="writable"):
        decode(np.zeros(4, np.uint16), bfloat16, np.frombuffer(bytes(16), np.float32))
