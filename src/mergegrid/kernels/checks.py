"""Validation of a program before it runs: the compiled loop trusts every count and address.

Only instructions are checked, not the elements of arrays, so it takes microseconds per chunk.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergegrid.kernels import opcodes as do
from mergegrid.kernels.expression import Expression

_HIGH_BINS = (1 << 15) + 1
_MAGNITUDES = 1 << 31
_WORDS = 1 << 32
_MOST_ELEMENTS = 1 << 62


@dataclass(frozen=True)
class Memory:
    """The arrays that a program reads and writes."""

    inputs: NDArray[np.uint8]
    """One loaded array in each row."""
    outputs: NDArray[np.uint8]
    """One stored array in each row."""
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]

    def check(self) -> None:
        """Check the arrays of the caller.

        Raises:
            ValueError: an array does not have the dtype, shape or layout that the loop assumes.
        """
        counts, sums = self.counts, self.sums
        if counts.dtype != np.int64 or counts.ndim != 1:
            raise ValueError(f"counts is {counts.dtype} {counts.shape}; pass a flat int64 array")
        if sums.dtype != np.float64 or sums.ndim != 2 or sums.shape[1] != do.LANES:
            raise ValueError(
                f"sums is {sums.dtype} {sums.shape}; pass a float64 array [parts, {do.LANES}]"
            )
        if not (counts.flags.carray and sums.flags.carray and self.outputs.flags.writeable):
            raise ValueError(
                "counts, sums and output memory are written in place; pass contiguous, writable "
                "arrays"
            )


def check_program(
    uses: Collection[Expression], sinks: Sequence[Expression], memory: Memory
) -> None:
    """Check every instruction of a program, and the arrays that it works on.

    Args:
        uses: all expressions that the sinks depend on, and the sinks.
        sinks: expressions that store or count.
        memory: the arrays.

    Raises:
        ValueError: an instruction has the wrong operands or scalars, operands have different
            lengths, or an array would be exceeded.
    """
    if not sinks:
        raise ValueError("the program has no sink; pass an expression that stores or counts")
    if len(set(sinks)) < len(sinks):
        raise ValueError("a sink is listed twice; build one expression for each result")
    memory.check()
    count = sinks[0].count
    if not 0 <= count < _MOST_ELEMENTS:
        raise ValueError(f"invalid number of elements {count}; pass 0 to {_MOST_ELEMENTS - 1}")
    output_row = 0
    for expression in uses:
        opcode = do.OPCODES.get(expression.op)
        if opcode is None:
            raise ValueError(f"unknown opcode {expression.op}; see kernels.opcodes")
        _check_signature(expression, opcode, count)
        if expression.op >= do.STORE_FLOAT32:
            if expression not in sinks:
                raise ValueError(f"{opcode.name} produces no array and cannot be an operand")
            if opcode.itemsize:
                _check_row(opcode, memory.outputs, output_row, count)
            output_row += 1
        elif opcode.itemsize:
            _check_row(opcode, memory.inputs, expression.integers[0], count)
        if expression.op in _SCALAR_CHECKS:
            _SCALAR_CHECKS[expression.op](expression, memory)
    # A single sink may be an array, which is only checked for non-finite elements.
    if len(sinks) > 1 and any(sink.op < do.STORE_FLOAT32 for sink in sinks):
        raise ValueError("one of several sinks is an array; store its values or count them")


def _check_signature(expression: Expression, opcode: do.Opcode, count: int) -> None:
    operands, floats = len(expression.operands), len(opcode.floats)
    expected = opcode.operands
    if expected is None:
        expected, floats = max(operands, 1), operands + floats
    integers = len(opcode.integers)
    actual = (operands, len(expression.floats), len(expression.integers))
    if actual != (expected, floats, integers):
        raise ValueError(
            f"{opcode.name} has {actual[0]} operands, {actual[1]} floats and {actual[2]} integers; "
            f"it takes {expected}, {floats} and {integers}"
        )
    if expression.count != count:
        raise ValueError(
            f"{opcode.name} has {expression.count} elements in a program of {count}; "
            "all arrays of a program must have the same length"
        )


def _check_row(opcode: do.Opcode, rows: NDArray[np.uint8], row: int, count: int) -> None:
    number, length = rows.shape
    if not 0 <= row < number:
        raise ValueError(f"{opcode.name}: row {row} does not exist; there are {number} rows")
    if count * opcode.itemsize > length or length % opcode.itemsize:
        raise ValueError(
            f"{opcode.name}: row {row} has {length} bytes for {count} elements of "
            f"{opcode.itemsize} bytes; reserve a multiple of that size for all elements"
        )


def _check_range(expression: Expression, index: int, low: int, high: int) -> None:
    opcode, value = do.OPCODES[expression.op], expression.integers[index]
    if not low <= value <= high:
        raise ValueError(
            f"{opcode.name}: {opcode.integers[index]} is {value}, outside {low} to {high}"
        )


def _check_random_words(expression: Expression, memory: Memory) -> None:
    for index in range(4):
        _check_range(expression, index, 0, _WORDS - 1)
    _check_range(expression, 4, 0, _MOST_ELEMENTS)


def _check_thin(expression: Expression, memory: Memory) -> None:
    _check_range(expression, 0, 0, _WORDS)


def _check_keep_large(expression: Expression, memory: Memory) -> None:
    _check_range(expression, 0, 1, _MAGNITUDES - 1)
    _check_range(expression, 1, 0, expression.count)


def _check_count_high(expression: Expression, memory: Memory) -> None:
    _check_counts(expression, memory, _HIGH_BINS)


def _check_count_equal(expression: Expression, memory: Memory) -> None:
    _check_range(expression, 0, 0, _WORDS - 1)


def _check_place_of_equal(expression: Expression, memory: Memory) -> None:
    _check_range(expression, 0, 0, _WORDS - 1)
    _check_range(expression, 1, 0, _MOST_ELEMENTS)
    _check_counts(expression, memory, 2)


def _check_count_near(expression: Expression, memory: Memory) -> None:
    low, width, shift, *guesses = expression.integers
    _check_range(expression, 0, 0, _MAGNITUDES - 1)
    _check_range(expression, 1, 1, _MAGNITUDES - low)
    _check_range(expression, 2, 0, do.LIST_OTHERS)
    for index, guess in enumerate(guesses, start=3):
        # Guesses from 2^31 on are not magnitudes and match nothing.
        highest = low + width - 1 if guess < _MAGNITUDES else _WORDS - 1
        _check_range(expression, index, low, highest)
    known = [guess for guess in guesses if guess < _MAGNITUDES]
    if len(set(known)) < len(known):
        raise ValueError(f"count near: duplicate guesses among {known}; list each once")
    bins = 1 if shift == do.LIST_OTHERS else ((width - 1) >> shift) + 1
    _check_counts(expression, memory, 1 + do.GUESSES + bins)


def _check_dots(expression: Expression, memory: Memory) -> None:
    part, first_row = expression.integers
    if part <= 0 or part % do.BLOCK:
        raise ValueError(f"dots: invalid part of {part} elements; use a multiple of {do.BLOCK}")
    rows, needed = len(memory.sums), -(-expression.count // part)
    if not 0 <= first_row <= rows - needed:
        raise ValueError(f"dots: {needed} parts from row {first_row} on, got {rows} rows of sums")


def _check_counts(expression: Expression, memory: Memory, needed: int) -> None:
    if memory.counts.size < needed:
        name = do.OPCODES[expression.op].name
        raise ValueError(f"{name} needs {needed} counts, got {memory.counts.size}")


_SCALAR_CHECKS: dict[int, Callable[[Expression, Memory], None]] = {
    do.RANDOM_WORDS: _check_random_words,
    do.THIN: _check_thin,
    do.KEEP_LARGE: _check_keep_large,
    do.COUNT_HIGH: _check_count_high,
    do.COUNT_EQUAL: _check_count_equal,
    do.PLACE_OF_EQUAL: _check_place_of_equal,
    do.COUNT_NEAR: _check_count_near,
    do.DOTS: _check_dots,
}
