"""Expressions: lazy arrays, computed only when a program stores or counts them."""

from collections.abc import Sequence

from mergegrid.kernels.opcodes import (
    LOAD_BFLOAT16,
    LOAD_FLOAT16,
    LOAD_FLOAT32,
    STORE_BFLOAT16,
    STORE_FLOAT16,
    STORE_FLOAT32,
)


class Expression:
    """A lazy array: opcode, number of elements, operands and scalars (see `opcodes.OPCODES`)."""

    __slots__ = ("count", "floats", "integers", "op", "operands")

    def __init__(
        self,
        op: int,
        count: int,
        operands: Sequence["Expression"] = (),
        floats: Sequence[float] = (),
        integers: Sequence[int] = (),
    ) -> None:
        self.op, self.count = op, count
        self.operands, self.floats, self.integers = operands, floats, integers


_LOAD = {"float32": LOAD_FLOAT32, "bfloat16": LOAD_BFLOAT16, "float16": LOAD_FLOAT16}
_STORE = {"float32": STORE_FLOAT32, "bfloat16": STORE_BFLOAT16, "float16": STORE_FLOAT16}


def load(dtype: str, count: int, row: int) -> Expression:
    """The first `count` elements of an input row of the machine, as float32."""
    return Expression(_LOAD[dtype], count, integers=[row])


def store(dtype: str, values: Expression) -> Expression:
    """The values, rounded to a dtype and written to the next output row."""
    return Expression(_STORE[dtype], values.count, [values])
