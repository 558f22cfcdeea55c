"""Stored numbers and the float32 they stand for: exact when read, rounded once when written.

A checkpoint stores float32, bfloat16 or float16. All arithmetic is done in float32; what is
written is rounded to the nearest stored number, ties to the even one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid.errors import CheckpointError
from mergegrid.kernels.expression import load, store
from mergegrid.kernels.program import Machine, Rows

Floats = NDArray[np.float32]
Stored = NDArray[Any]
"""Numbers as they lie in a file: float32, float16, or the 16 bits of bfloat16 as uint16."""


@dataclass(frozen=True)
class Dtype:
    """A type that parameters are stored in."""

    name: str
    """As configurations and torch call it."""
    safetensors: str
    """As the header of a safetensors file calls it."""
    numpy: type[Any]
    """As it lies in memory."""
    size: int
    """Bytes of one number."""


DTYPES = {
    dtype.name: dtype
    for dtype in (
        Dtype("float32", "F32", np.float32, 4),
        Dtype("bfloat16", "BF16", np.uint16, 2),
        Dtype("float16", "F16", np.float16, 2),
    )
}
_BY_CODE = {dtype.safetensors: dtype for dtype in DTYPES.values()}


def dtype_of(code: str, what: str) -> Dtype:
    """The dtype that a safetensors header names, as in `BF16`.

    Raises:
        CheckpointError: `what`, a tensor in some file, is stored in no type that can be merged.
    """
    if code not in _BY_CODE:
        raise CheckpointError(
            f"{what} is stored as {code}; only {', '.join(_BY_CODE)} can be merged: "
            "convert the model to one of them first"
        )
    return _BY_CODE[code]


def decode(stored: Stored, dtype: Dtype, out: Floats) -> None:
    """Write the float32 values of stored numbers into `out`, both flat and of one length."""
    _convert(stored, dtype.name, out, "float32")


def encode(values: Floats, dtype: Dtype, out: Stored) -> None:
    """Write the stored numbers nearest to float32 values into `out`, both flat, of one length."""
    _convert(values, "float32", out, dtype.name)


def is_finite(stored: Stored, dtype: Dtype) -> bool:
    """Whether no stored number is an infinity or NaN."""
    machine = Machine()
    machine.inputs = _rows(stored, dtype.name)
    machine.run([load(dtype.name, stored.size, 0)])
    return not machine.nonfinite_input.value


def _convert(numbers: Stored, dtype: str, out: Stored, out_dtype: str) -> None:
    if numbers.size != out.size:
        raise ValueError(f"{numbers.size} numbers do not go into {out.size}")
    if not out.flags.writeable:
        raise ValueError("the array to write to is read-only; pass a writable one")
    machine = Machine()
    machine.inputs, machine.outputs = _rows(numbers, dtype), _rows(out, out_dtype)
    machine.run([store(out_dtype, load(dtype, numbers.size, 0))])


def _rows(numbers: Stored, dtype: str) -> Rows:
    """The memory of flat numbers, as one row."""
    if numbers.dtype != DTYPES[dtype].numpy or not numbers.flags.c_contiguous:
        raise ValueError(
            f"{dtype} numbers are read from contiguous {np.dtype(DTYPES[dtype].numpy)} arrays, "
            f"got {numbers.dtype}, contiguous: {numbers.flags.c_contiguous}"
        )
    return Rows(numbers.view(np.uint8).reshape(1, -1))
