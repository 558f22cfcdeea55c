"""Checks of a program before it runs: the compiled loop trusts every count, index and address.

They look at the instructions, never at the numbers, so they take microseconds per chunk.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergegrid.kernels import opcodes as do
from mergegrid.kernels.expression import Expression

_BINS = (1 << 15) + 1
_MAGNITUDES = 1 << 31
_WORD = 1 << 32
_ELEMENTS = 1 << 62


@dataclass(frozen=True)
class Memory:
    """The arrays that a program reads and writes."""

    rooms: NDArray[np.uint8]
    """What is loaded, one array in each row."""
    results: NDArray[np.uint8]
    """What is stored, one array in each row."""
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]

    def check(self) -> None:
        """Check what callers hand in.

        Raises:
            ValueError: an array has another type, shape or layout than the loop takes it for.
        """
        counts, sums = self.counts, self.sums
        if counts.dtype != np.int64 or counts.ndim != 1:
            raise ValueError(f"counts is {counts.dtype} {counts.shape}; pass a flat int64 array")
        if sums.dtype != np.float64 or sums.ndim != 2 or sums.shape[1] != do.LANES:
            raise ValueError(
                f"sums is {sums.dtype} {sums.shape}; pass a float64 array [parts, {do.LANES}]"
            )
        if not (counts.flags.carray and sums.flags.carray and self.results.flags.writeable):
            raise ValueError(
                "counts, sums and the memory for results are written in place; "
                "pass contiguous, writable arrays"
            )


def check_program(
    uses: Collection[Expression], sinks: Sequence[Expression], memory: Memory
) -> None:
    """Check every instruction of a program, and the arrays that it works on.

    Args:
        uses: every expression that leads to the sinks, and the sinks.
        sinks: expressions that store or count.
        memory: the arrays.

    Raises:
        ValueError: an instruction has the wrong operands or numbers, or reaches beyond an array.
    """
    if not sinks:
        raise ValueError("the program has no sink; pass an expression that stores or counts")
    if len(set(sinks)) < len(sinks):
        raise ValueError("a sink is listed twice; build one expression for each result")
    memory.check()
    count = sinks[0].count
    if not 0 <= count < _ELEMENTS:
        raise ValueError(f"a program cannot go through {count} elements")
    stores = 0
    for expression in uses:
        shape = _SHAPES.get(expression.op)
        if shape is None:
            raise ValueError(f"there is no instruction {expression.op}; see kernels.opcodes")
        _check_shape(expression, shape, count)
        if expression.op >= do.STORE_FLOAT32:
            if expression not in sinks:
                raise ValueError(f"{shape.name} gives no array; it cannot be an operand")
            if shape.size:
                _check_row(shape, memory.results, stores, count)
            stores += 1
        elif shape.size:
            _check_row(shape, memory.rooms, expression.integers[0], count)
        if shape.check:
            shape.check(expression, memory)
    # Alone, an array is a sink too: it is only looked at, for numbers that are not finite.
    if len(sinks) > 1 and any(sink.op < do.STORE_FLOAT32 for sink in sinks):
        raise ValueError("one of several sinks gives an array; store its values or count them")


@dataclass(frozen=True)
class _Shape:
    """What an instruction takes."""

    name: str
    operands: int | None = None
    """How many; None: one or more."""
    floats: int = 0
    """How many besides one for each of any number of operands."""
    integers: int = 0
    size: int = 0
    """Bytes of a stored number, of instructions that load or store."""
    check: Callable[[Expression, Memory], None] | None = None
    """Checks its numbers."""


def _check_shape(expression: Expression, shape: _Shape, count: int) -> None:
    operands, floats = len(expression.operands), shape.floats
    wanted = shape.operands
    if wanted is None:
        wanted, floats = max(operands, 1), operands + floats
    if (
        operands != wanted
        or len(expression.floats) != floats
        or len(expression.integers) != shape.integers
    ):
        raise ValueError(
            f"{shape.name} has {operands} operands, {len(expression.floats)} floats and "
            f"{len(expression.integers)} integers; it takes {wanted}, {floats} and {shape.integers}"
        )
    if expression.count != count:
        raise ValueError(
            f"{shape.name} is about {expression.count} elements in a program of {count}; "
            "all arrays of a program have one length"
        )


def _check_row(shape: _Shape, rows: NDArray[np.uint8], index: int, count: int) -> None:
    number, length = rows.shape
    if not 0 <= index < number:
        raise ValueError(f"{shape.name}: row {index} does not exist, there are {number}")
    if count * shape.size > length or length % shape.size:
        raise ValueError(
            f"{shape.name}: row {index} has {length} bytes, for {count} elements of {shape.size} "
            "bytes; hold rows of a multiple of that size, long enough for all elements"
        )


def _check_within(name: str, what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: {what} is {value}, and must lie within {low} and {high}")


def _words(expression: Expression, memory: Memory) -> None:
    for place, word in enumerate(expression.integers[:4]):
        _check_within("words", f"key {place}", word, 0, _WORD - 1)
    _check_within("words", "first block", expression.integers[4], 0, _ELEMENTS)


def _thin(expression: Expression, memory: Memory) -> None:
    _check_within("thin", "threshold", expression.integers[0], 0, _WORD)


def _keep_large(expression: Expression, memory: Memory) -> None:
    bits, boundary = expression.integers
    _check_within("keep large", "threshold", bits, 1, _MAGNITUDES - 1)
    _check_within("keep large", "boundary", boundary, 0, expression.count)


def _count_equal(expression: Expression, memory: Memory) -> None:
    _check_within("count equal", "bits", expression.integers[0], 0, _WORD - 1)


def _place_of_equal(expression: Expression, memory: Memory) -> None:
    bits, rank = expression.integers
    _check_within("place of equal", "bits", bits, 0, _WORD - 1)
    _check_within("place of equal", "rank", rank, 0, _ELEMENTS)
    _check_bins("place of equal", memory, 2)


def _count_high(expression: Expression, memory: Memory) -> None:
    _check_bins("count high", memory, _BINS)


def _count_near(expression: Expression, memory: Memory) -> None:
    low, width, shift, *guesses = expression.integers
    _check_within("count near", "low", low, 0, _MAGNITUDES - 1)
    _check_within("count near", "width", width, 1, _MAGNITUDES - low)
    _check_within("count near", "shift", shift, 0, do.LIST_OTHERS)
    known = [guess for guess in guesses if guess < _MAGNITUDES]
    for guess in guesses:
        _check_within("count near", "guess", guess, low, _WORD - 1)
    for guess in known:
        _check_within("count near", "guess", guess, low, low + width - 1)
    if len(set(known)) < len(known):
        raise ValueError(f"count near: a guess is listed twice among {known}; list each once")
    bins = 1 if shift == do.LIST_OTHERS else ((width - 1) >> shift) + 1
    _check_bins("count near", memory, 1 + do.GUESSES + bins)


def _dots(expression: Expression, memory: Memory) -> None:
    (part,) = expression.integers
    if part <= 0 or part % do.BLOCK:
        raise ValueError(f"dots: parts of {part} elements; take a multiple of {do.BLOCK}")
    needed = -(-expression.count // part)
    if needed > len(memory.sums):
        raise ValueError(f"dots: {needed} parts need as many rows of sums, got {len(memory.sums)}")


def _check_bins(name: str, memory: Memory, needed: int) -> None:
    if memory.counts.size < needed:
        raise ValueError(f"{name} needs {needed} counts, got {memory.counts.size}")


_SHAPES = {
    do.LOAD_FLOAT32: _Shape("load float32", 0, integers=1, size=4),
    do.LOAD_BFLOAT16: _Shape("load bfloat16", 0, integers=1, size=2),
    do.LOAD_FLOAT16: _Shape("load float16", 0, integers=1, size=2),
    do.SUBTRACT: _Shape("subtract", 2),
    do.PRODUCT: _Shape("product", 2),
    do.QUOTIENT: _Shape("quotient", 2),
    do.SCALED: _Shape("scaled", 1, floats=1),
    do.PLUS_NUMBER: _Shape("plus number", 1, floats=1),
    do.DIVIDED: _Shape("divided", 1, floats=1),
    do.WORDS: _Shape("words", 0, integers=5, check=_words),
    do.THIN: _Shape("thin", 2, floats=1, integers=1, check=_thin),
    do.WEIGHTED_SUM: _Shape("weighted sum"),
    do.WEIGHTED_MEAN: _Shape("weighted mean", floats=1),
    do.PLUS: _Shape("plus", 2, floats=1),
    do.INSTEAD: _Shape("instead", 3),
    do.MASKED: _Shape("masked", 2),
    do.KEEP_LARGE: _Shape("keep large", 1, integers=2, check=_keep_large),
    do.AGREEING_MEAN: _Shape("agreeing mean", floats=1),
    do.STORE_FLOAT32: _Shape("store float32", 1, size=4),
    do.STORE_BFLOAT16: _Shape("store bfloat16", 1, size=2),
    do.STORE_FLOAT16: _Shape("store float16", 1, size=2),
    do.COUNT_HIGH: _Shape("count high", 1, check=_count_high),
    do.COUNT_EQUAL: _Shape("count equal", 1, integers=1, check=_count_equal),
    do.PLACE_OF_EQUAL: _Shape("place of equal", 1, integers=2, check=_place_of_equal),
    do.COUNT_NEAR: _Shape("count near", 1, integers=3 + do.GUESSES, check=_count_near),
    do.DOTS: _Shape("dots", 2, integers=1, check=_dots),
}
