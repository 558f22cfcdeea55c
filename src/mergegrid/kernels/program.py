"""Programs: expressions over arrays, computed in one pass through the processor's cache.

Operations build expressions and compute nothing. When results are requested, the expressions that
they depend on become a list of instructions, which one compiled loop executes for about a thousand
elements at a time. So no intermediate array leaves the cache, and threads contend for the
interpreter once per chunk instead of once per operation.
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
    """Memory for arrays, one in each row, which grows on demand."""

    def __init__(self, array: NDArray[np.uint8] | None = None) -> None:
        self._set(np.empty((0, 0), np.uint8) if array is None else array)

    def _set(self, array: NDArray[np.uint8]) -> None:
        if array.dtype != np.uint8 or array.ndim != 2 or not array.flags.c_contiguous:
            raise ValueError(
                f"memory is {array.dtype} {array.shape}, contiguous: {array.flags.c_contiguous}; "
                "pass contiguous bytes [rows, length]"
            )
        self.array = array
        # Kept, because NumPy takes longer to return it than a short program runs.
        self.address = array.ctypes.data

    def reserve(self, index: int, size: int) -> NDArray[np.uint8]:
        """The first `size` bytes of a row; grows the memory if needed and keeps its contents."""
        if index < 0 or size < 0:
            raise ValueError(f"row {index} of {size} bytes: neither may be negative")
        rows, length = self.array.shape
        if index >= rows or size > length:
            # Rows are viewed as elements of up to four bytes.
            grown = np.empty((max(index + 1, rows), -(-max(size, length) // 4) * 4), np.uint8)
            grown[:rows, :length] = self.array
            self._set(grown)
        return self.array[index, :size]


_NO_COUNTS = np.zeros(1, np.int64)
_NO_SUMS = np.zeros((1, LANES))


class Machine:
    """Executes programs, reusing its memory."""

    def __init__(self) -> None:
        self.inputs = Rows()
        """Arrays to load, one in each row."""
        self.outputs = Rows()
        """Stored arrays, one in each row."""
        self.nonfinite_input = c_int64()
        """Not 0 once an infinity or NaN has been loaded; reset by the caller."""
        self._registers = Rows()
        self._scratch = (c_double * BLOCK)()
        self._execute = program_loop()

    def run(
        self,
        sinks: Sequence[Expression],
        counts: NDArray[np.int64] = _NO_COUNTS,
        sums: NDArray[np.float64] = _NO_SUMS,
    ) -> list[int]:
        """Compute the sinks.

        Args:
            sinks: expressions that store or count.
            counts: counts to add to; their layout depends on the opcode.
            sums: partial sums [parts, LANES] of inner products to add to.

        Returns:
            One number per sink: whether it stored an infinity or NaN, or its count.

        Raises:
            ValueError: the program is invalid or would exceed its arrays.
        """
        uses = _count_uses(sinks)
        memory = Memory(self.inputs.array, self.outputs.array, counts, sums)
        check_program(uses, sinks, memory)
        program, floats, integers, registers = _compile(uses)
        self._registers.reserve(registers - 1, 4 * BLOCK)
        results = (c_int64 * len(sinks))()
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
            results,
            byref(self.nonfinite_input),
        )
        return list(results)


def _compile(uses: dict[Expression, int]) -> tuple[list[int], list[float], list[int], int]:
    """Translate expressions to code, floats, integers and the number of registers.

    An instruction consists of the opcode, target register or output row, index of its first float,
    index of its first integer, number of operands, and the registers of the operands.
    """
    program: list[int] = []
    floats: list[float] = []
    integers: list[int] = []
    targets: dict[Expression, int] = {}
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
        targets[expression] = target
        program += (expression.op, target, len(floats), len(integers), len(operands))
        floats += expression.floats
        integers += expression.integers
        # Operands are freed after the target is chosen, so no instruction overwrites its operands.
        for operand in operands:
            program.append(targets[operand])
            uses[operand] -= 1
            if not uses[operand]:
                free.append(targets[operand])
    # Two more as scratch space for single instructions.
    return program, floats, integers, registers + 2


def _count_uses(sinks: Iterable[Expression]) -> dict[Expression, int]:
    """The number of uses of every expression, each after all of its operands."""
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
