"""Programs: what an expression over arrays asks for, carried out in one pass through the cache.

Operations do not compute; they build expressions. Only when numbers are wanted, all that leads to
them becomes a list of instructions, which one compiled loop carries out for a few thousand
elements at a time. So no intermediate array ever leaves the processor's cache, and threads meet in
the interpreter once per run instead of once per operation.
"""

from collections.abc import Iterable, Sequence
from ctypes import byref, c_double, c_int64, c_uint64

import numpy as np
from numpy.typing import NDArray

from mergegrid.kernels.checks import Memory, check_program
from mergegrid.kernels.compiled import program_loop
from mergegrid.kernels.expression import Expression
from mergegrid.kernels.opcodes import BLOCK, LANES, SIZES, STORE_FLOAT32


class Rows:
    """Memory for arrays, one in each row; it grows when it has to."""

    def __init__(self, array: NDArray[np.uint8] | None = None) -> None:
        self._take(np.empty((0, 0), np.uint8) if array is None else array)

    def _take(self, array: NDArray[np.uint8]) -> None:
        if array.dtype != np.uint8 or array.ndim != 2 or not array.flags.c_contiguous:
            raise ValueError(
                f"memory is {array.dtype} {array.shape}, contiguous: {array.flags.c_contiguous}; "
                "pass contiguous bytes [rows, length]"
            )
        self.array = array
        # Asking an array takes longer than a short program.
        self.address = array.ctypes.data

    def reserve(self, index: int, size: int) -> NDArray[np.uint8]:
        """The first `size` bytes of a row; what is in the others is kept."""
        if index < 0 or size < 0:
            raise ValueError(f"row {index} of {size} bytes: neither can be negative")
        rows, length = self.array.shape
        if index >= rows or size > length:
            # Rows are looked at as numbers of up to four bytes.
            grown = np.empty((max(index + 1, rows), -(-max(size, length) // 4) * 4), np.uint8)
            grown[:rows, :length] = self.array
            self._take(grown)
        return self.array[index, :size]


_NO_COUNTS = np.zeros(1, np.int64)
_NO_SUMS = np.zeros((1, LANES))


class Machine:
    """Carries out programs; its memory is used again and again."""

    def __init__(self) -> None:
        self.inputs = Rows()
        """Memory for what is read."""
        self.outputs = Rows()
        """Memory for what is stored."""
        self.nonfinite_input = c_int64()
        """Not 0 from where something that was loaded is not finite."""
        self._registers = Rows()
        self._scratch = (c_double * BLOCK)()
        self._execute = program_loop()

    def run(
        self,
        sinks: Sequence[Expression],
        counts: NDArray[np.int64] = _NO_COUNTS,
        sums: NDArray[np.float64] = _NO_SUMS,
    ) -> list[int]:
        """Carry out what leads to the sinks.

        Args:
            sinks: expressions that store or count.
            counts: histogram that counts are added to.
            sums: sums that inner products are added to, LANES for each part of the arrays.

        Returns:
            For each sink a number: whether it stored something that is not finite, or its count.

        Raises:
            ValueError: the program would read or write beyond its arrays, or in another layout.
        """
        uses = _in_order(sinks)
        memory = Memory(self.inputs.array, self.outputs.array, counts, sums)
        check_program(uses, sinks, memory)
        program, floats, integers, registers = _compile(uses)
        self._registers.reserve(registers - 1, 4 * BLOCK)
        found = (c_int64 * len(sinks))()
        sizes = (c_int64 * SIZES)(
            sinks[0].count,
            len(program),
            len(floats),
            len(integers),
            *self.inputs.array.shape,
            *self.outputs.array.shape,
            registers,
            counts.size,
            len(sums),
            len(sinks),
        )
        self._execute(
            sizes,
            (c_int64 * len(program))(*program),
            (c_double * len(floats))(*floats),
            (c_uint64 * len(integers))(*integers),
            self.inputs.address,
            self.outputs.address,
            self._registers.address,
            self._scratch,
            counts.ctypes.data,
            sums.ctypes.data,
            found,
            byref(self.nonfinite_input),
        )
        return list(found)


def _compile(uses: dict[Expression, int]) -> tuple[list[int], list[float], list[int], int]:
    """Instructions, one after the other, their numbers, and how many registers they need.

    An instruction is: op, target, first of its floats, first of its integers, number of operands,
    operands.
    """
    program: list[int] = []
    floats: list[float] = []
    integers: list[int] = []
    places: dict[Expression, int] = {}
    free: list[int] = []
    registers = stored = 0
    for expression in list(uses):
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
        program += (expression.op, target, len(floats), len(integers), len(operands))
        floats += expression.floats
        integers += expression.integers
        # A target is taken before operands are let go: no instruction writes what it reads.
        for operand in operands:
            program.append(places[operand])
            uses[operand] -= 1
            if not uses[operand]:
                free.append(places[operand])
    # Two more for instructions that need room of their own.
    return program, floats, integers, registers + 2


def _in_order(sinks: Iterable[Expression]) -> dict[Expression, int]:
    """How often every expression is used, each after all it is of."""
    uses: dict[Expression, int] = {}

    def visit(expression: Expression) -> None:
        for operand in expression.operands:
            if operand not in uses:
                visit(operand)
            uses[operand] += 1
        uses[expression] = 0

    for sink in sinks:
        visit(sink)
    return uses
