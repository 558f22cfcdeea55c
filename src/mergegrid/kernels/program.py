"""Programs: what an expression over arrays asks for, carried out in one pass through the cache.

Operations do not compute; they build expressions. Only when numbers are wanted, all that leads to
them becomes a list of instructions, which one compiled loop carries out for a few thousand
elements at a time. So no intermediate array ever leaves the processor's cache, and threads meet in
the interpreter once per run instead of once per operation.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mergegrid.kernels.compiled import program_loop
from mergegrid.kernels.instructions import (
    BLOCK,
    LANES,
    LOAD_BFLOAT16,
    LOAD_FLOAT16,
    LOAD_FLOAT32,
    STORE_BFLOAT16,
    STORE_FLOAT16,
    STORE_FLOAT32,
)


class Expression:
    """An array that has not been computed: an operation, what it is of, and its numbers."""

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


_NO_COUNTS = np.zeros(1, np.int64)
_NO_SUMS = np.zeros((1, LANES))


class Machine:
    """Carries out programs; its memory is used again and again."""

    def __init__(self) -> None:
        self.rooms = np.empty((0, 0), np.uint8)
        """Memory for what is read, one row for each array."""
        self.results = np.empty((0, 0), np.uint8)
        """Memory for what is stored, one row for each array."""
        self.spoiled = np.zeros(1, np.int64)
        """Not 0 from where something that was loaded is not finite."""
        self._registers = np.empty((0, BLOCK), np.float32)
        self._scratch = np.empty(BLOCK, np.float64)
        self._execute = program_loop()

    @property
    def bytes(self) -> int:
        """Memory that is held."""
        return self.rooms.nbytes + self.results.nbytes + self._registers.nbytes

    def run(
        self,
        sinks: Sequence[Expression],
        counts: NDArray[np.int64] = _NO_COUNTS,
        sums: NDArray[np.float64] = _NO_SUMS,
    ) -> NDArray[np.int64]:
        """Carry out what leads to the sinks.

        Args:
            sinks: expressions that store or count.
            counts: histogram that counts are added to.
            sums: sums that inner products are added to, LANES for each part of the arrays.

        Returns:
            For each sink a number: whether it stored something that is not finite, or its count.
        """
        program, floats, integers, registers = _compile(sinks)
        if len(self._registers) < registers:
            self._registers = np.empty((registers, BLOCK), np.float32)
        found = np.zeros(len(sinks), np.int64)
        sizes = np.array(
            (
                sinks[0].count,
                *program.shape,
                floats.size,
                integers.size,
                *self.rooms.shape,
                *self.results.shape,
                len(self._registers),
                counts.size,
                len(sums),
            ),
            np.int64,
        )
        arrays = (
            sizes,
            program,
            floats,
            integers,
            self.rooms,
            self.results,
            self._registers,
            self._scratch,
            counts,
            sums,
            found,
            self.spoiled,
        )
        self._execute(*(array.ctypes.data for array in arrays))
        return found


def _compile(
    sinks: Sequence[Expression],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint64], int]:
    """Instructions: op, target, number of operands, first float, first integer, operands."""
    order = _in_order(sinks)
    uses: dict[Expression, int] = {}
    widest = 0
    for expression in order:
        widest = max(widest, len(expression.operands))
        for operand in expression.operands:
            uses[operand] = uses.get(operand, 0) + 1
    rows: list[int] = []
    floats: list[float] = [0.0]
    integers: list[int] = [0]
    places: dict[Expression, int] = {}
    free: list[int] = []
    registers = stored = 0
    for expression in order:
        operands = expression.operands
        if expression.op >= STORE_FLOAT32:
            target = stored
            stored += 1
        elif free:
            target = free.pop()
        else:
            target = registers
            registers += 1
        places[expression] = target
        rows += (expression.op, target, len(operands), len(floats), len(integers))
        rows += [places[operand] for operand in operands]
        rows += [0] * (widest - len(operands))
        floats += expression.floats
        integers += expression.integers
        # A target is taken before operands are let go: no instruction writes what it reads.
        for operand in operands:
            uses[operand] -= 1
            if not uses[operand]:
                free.append(places[operand])
    return (
        np.array(rows, np.int64).reshape(len(order), -1),
        np.array(floats, np.float64),
        np.array(integers, np.uint64),
        # Two more for instructions that need room of their own.
        registers + 2,
    )


def _in_order(sinks: Iterable[Expression]) -> list[Expression]:
    """Every expression once, after all it is of."""
    order: dict[Expression, None] = {}

    def visit(expression: Expression) -> None:
        for operand in expression.operands:
            if operand not in order:
                visit(operand)
        order[expression] = None

    for sink in sinks:
        visit(sink)
    return list(order)


def room(rows: NDArray[np.uint8], index: int, size: int) -> NDArray[np.uint8]:
    """Memory with at least so many rows of at least so many bytes; what is in it is kept."""
    if index < rows.shape[0] and size <= rows.shape[1]:
        return rows
    # Rows are looked at as numbers of up to four bytes.
    length = -(-max(size, rows.shape[1]) // 4) * 4
    grown = np.empty((max(index + 1, rows.shape[0]), length), np.uint8)
    grown[: rows.shape[0], : rows.shape[1]] = rows
    return grown
