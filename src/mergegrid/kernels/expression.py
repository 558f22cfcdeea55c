"""Expressions: what is computed, before it is."""

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
    """A lazy array: opcode, operands and scalar parameters."""

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


def load(dtype: str, count: int, room: int) -> Expression:
    """The float32 values of `count` numbers in a room of the machine."""
    return Expression(_LOAD[dtype], count, integers=[room])


def store(dtype: str, values: Expression) -> Expression:
    """The nearest stored numbers."""
    return Expression(_STORE[dtype], values.count, [values])
