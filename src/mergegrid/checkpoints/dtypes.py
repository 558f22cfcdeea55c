"""Stored dtypes and their float32 values: exact when read, rounded once when written.

A checkpoint stores float32, bfloat16 or float16. Arithmetic is done in float32; results are
rounded to the nearest stored value, ties to even.
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
"""Elements as stored in a file: float32, float16, or the 16 bits of bfloat16 as uint16."""


@dataclass(frozen=True)
class Dtype:
    """A dtype of stored parameters."""

    name: str
    """Name in configs and torch."""
    safetensors: str
    """Code in the header of a safetensors file."""
    numpy: type[Any]
    """NumPy type of the stored elements."""
    size: int
    """Bytes per element."""


DTYPES = {
    dtype.name: dtype
    for dtype in (
        Dtype("float32", "F32", np.float32, 4),
        Dtype("bfloat16", "BF16", np.uint16, 2),
        Dtype("float16", "F16", np.float16, 2),
    )
}
_BY_CODE = {dtype.safetensors: dtype for dtype in DTYPES.values()}


def dtype_of(code: str, tensor: str) -> Dtype:
    """The dtype of a code in a safetensors header, such as `BF16`.

    Raises:
        CheckpointError: `tensor` (a description for the message) has a dtype that cannot be merged.
    """
    if code not in _BY_CODE:
        raise CheckpointError(
            f"{tensor} is stored as {code}; only {', '.join(_BY_CODE)} can be merged: "
            "convert the model to one of these first"
        )
    return _BY_CODE[code]


def decode(stored: Stored, dtype: Dtype, out: Floats) -> None:
    """Convert stored elements to float32; both arrays are flat and of the same length."""
    _convert(stored, dtype.name, out, "float32")


def encode(values: Floats, dtype: Dtype, out: Stored) -> None:
    """Round float32 values to a stored dtype; both arrays are flat and of the same length."""
    _convert(values, "float32", out, dtype.name)


def is_finite(stored: Stored, dtype: Dtype) -> bool:
    """Whether no stored element is an infinity or NaN."""
    machine = Machine()
    machine.inputs = _rows(stored, dtype.name)
    machine.run([load(dtype.name, stored.size, 0)])
    return not machine.nonfinite_input.value


def _convert(values: Stored, dtype: str, out: Stored, out_dtype: str) -> None:
    if values.size != out.size:
        raise ValueError(f"{values.size} elements do not fit an array of {out.size}")
    if not out.flags.writeable:
        raise ValueError("the output array is read-only; pass a writable one")
    machine = Machine()
    machine.inputs, machine.outputs = _rows(values, dtype), _rows(out, out_dtype)
    machine.run([store(out_dtype, load(dtype, values.size, 0))])


def _rows(array: Stored, dtype: str) -> Rows:
    """A flat array as the only row of a machine's memory, without a copy."""
    if array.dtype != DTYPES[dtype].numpy or not array.flags.c_contiguous:
        raise ValueError(
            f"{dtype} elements need a contiguous array of {np.dtype(DTYPES[dtype].numpy)}, "
            f"got {array.dtype}, contiguous: {array.flags.c_contiguous}"
        )
    return Rows(array.view(np.uint8).reshape(1, -1))
