"""The program loop: instructions for arrays, carried out block by block.

What numba keeps of a function is compiled anew when the function's own file changes, not when one
that it calls does. So this file names the version of `loops.py` and `counting.py`, and a test
compares.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mergegrid import counting, loops

#: SHA-256 of `loops.py` and then `counting.py`, its first 16 digits.
LOOPS = "07bc6c9065a73aee"

_kernel: Any = njit(nogil=True, cache=True)

#: Elements that an instruction handles at a time: a few arrays of them stay in the second cache.
BLOCK = 1 << 11
#: Instructions of `execute`; from STORE_FLOAT32 on they give a result and no array.
# fmt: off
(
    LOAD_FLOAT32, LOAD_BFLOAT16, LOAD_FLOAT16, SUBTRACT, PRODUCT, QUOTIENT, SCALED,
    PLUS_NUMBER, DIVIDED, WORDS, THIN, WEIGHTED_SUM, WEIGHTED_MEAN, PLUS, INSTEAD, MASKED,
    KEEP_LARGE, AGREEING_MEAN, STORE_FLOAT32, STORE_BFLOAT16, STORE_FLOAT16, COUNT_HIGH,
    COUNT_EQUAL, COUNT_NEAR,
) = range(24)
# fmt: on


@_kernel
def execute(
    program: NDArray[np.int64],
    floats: NDArray[np.float64],
    integers: NDArray[np.uint64],
    count: int,
    rooms: NDArray[np.uint8],
    results: NDArray[np.uint8],
    registers: NDArray[np.float32],
    scratch: NDArray[np.float64],
    counts: NDArray[np.int64],
    found: NDArray[np.int64],
    spoiled: NDArray[np.int64],
) -> None:
    """Carry out a program for `count` elements, block by block.

    Args:
        program: a row for each instruction: what, target, number of operands, first of its
            `floats`, first of its `integers`, and the registers of its operands.
        count: elements of every array.
        rooms: what is loaded, one array in each row.
        results: what is stored, one array in each row.
        registers: [n, BLOCK], of which the last two are free for any instruction.
        scratch: float64 [BLOCK].
        counts: histogram that is added to.
        found: of each result, whether it holds an infinity or NaN, or its count.
        spoiled: [1], not 0 from where something that is loaded holds an infinity or NaN.
    """
    guesses = np.empty(counting.GUESSES, np.uint32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        spare = registers[registers.shape[0] - 1, :size]
        elected = registers[registers.shape[0] - 2, :size]
        for row in range(program.shape[0]):
            op, target, operands = program[row, 0], program[row, 1], program[row, 2]
            number, integer = program[row, 3], program[row, 4]
            if op < STORE_FLOAT32:
                out = registers[target, :size]
            if operands:
                first = registers[program[row, 5], :size]
            if op == LOAD_FLOAT32:
                out[:] = rooms[integers[integer]].view(np.float32)[start : start + size]
                spoiled[0] |= loops.any_exponent_full_32(out.view(np.uint32))
            elif op == LOAD_BFLOAT16:
                stored = rooms[integers[integer]].view(np.uint16)[start : start + size]
                loops.widen_bfloat16(stored, out.view(np.uint32))
                spoiled[0] |= loops.any_exponent_full_16(stored, np.uint16(0x7F80))
            elif op == LOAD_FLOAT16:
                stored = rooms[integers[integer]].view(np.uint16)[start : start + size]
                loops.widen_float16(stored, out.view(np.uint32))
                spoiled[0] |= loops.any_exponent_full_16(stored, np.uint16(0x7C00))
            elif op == SUBTRACT:
                loops.subtract(first, registers[program[row, 6], :size], out)
            elif op == PRODUCT:
                loops.product(first, registers[program[row, 6], :size], out)
            elif op == QUOTIENT:
                loops.quotient(first, registers[program[row, 6], :size], out)
            elif op == SCALED:
                loops.scaled(first, np.float32(floats[number]), out)
            elif op == PLUS_NUMBER:
                loops.plus_number(first, np.float32(floats[number]), out)
            elif op == DIVIDED:
                loops.divided(first, np.float32(floats[number]), out)
            elif op == WORDS:
                # Blocks are whole, but for the last: its words are rounded up to four.
                words = registers[target, : (size + 3) // 4 * 4].view(np.uint32)
                key = integers[integer : integer + 5]
                loops.philox(key[0], key[1], key[2], key[3], key[4] + np.uint64(start // 4), words)
            elif op == THIN:
                second = registers[program[row, 6], :size]
                if integers[integer] == np.uint64(0):
                    out[:] = np.float32(0)
                else:
                    last = np.uint32(integers[integer] - np.uint64(1))
                    loops.thin(first.view(np.uint32), last, second, np.float32(floats[number]), out)
            elif op == WEIGHTED_SUM:
                if operands == 1:
                    loops.scaled(first, np.float32(floats[number]), out)
                else:
                    second = registers[program[row, 6], :size]
                    one, two = np.float32(floats[number]), np.float32(floats[number + 1])
                    loops.add_two(first, one, second, two, out)
                for k in range(2, operands):
                    other = registers[program[row, 5 + k], :size]
                    loops.add_one(out, other, np.float32(floats[number + k]))
            elif op == WEIGHTED_MEAN:
                for i in range(size):
                    scratch[i] = floats[number] * np.float64(first[i])
                for k in range(1, operands):
                    loops.add_exactly(
                        scratch, registers[program[row, 5 + k], :size], floats[number + k]
                    )
                for i in range(size):
                    out[i] = np.float32(scratch[i] / floats[number + operands])
            elif op == PLUS:
                second = registers[program[row, 6], :size]
                loops.plus(first, second, np.float32(floats[number]), out)
            elif op == INSTEAD:
                second = registers[program[row, 6], :size]
                loops.instead(first, second, registers[program[row, 7], :size], out)
            elif op == MASKED:
                loops.masked(first, registers[program[row, 6], :size], out)
            elif op == KEEP_LARGE:
                floor = np.uint32(integers[integer])
                place = min(max(np.int64(integers[integer + 1]) - start, 0), size)
                raw, kept = first.view(np.uint32), out.view(np.uint32)
                loops.keep_above(raw[:place], np.uint32(floor - np.uint32(1)), kept[:place])
                loops.keep_above(raw[place:], floor, kept[place:])
            elif op == AGREEING_MEAN and operands == 2:
                second = registers[program[row, 6], :size]
                one, two = np.float32(floats[number]), np.float32(floats[number + 1])
                undecided = np.float32(floats[number + 2])
                loops.agree_of_two(first, one, second, two, undecided, out)
            elif op == AGREEING_MEAN:
                elected[:] = np.float32(0)
                for k in range(operands):
                    loops.add_one(elected, registers[program[row, 5 + k], :size], np.float32(1))
                out[:] = np.float32(0)
                spare[:] = np.float32(0)
                undecided = np.float32(floats[number + operands])
                for k in range(operands):
                    weight = np.float32(floats[number + k])
                    delta = registers[program[row, 5 + k], :size]
                    loops.agree(elected, undecided, delta, weight, out, spare)
                loops.divide(out, spare)
            elif op == STORE_FLOAT32:
                results[target].view(np.float32)[start : start + size] = first
                found[target] |= loops.any_exponent_full_32(first.view(np.uint32))
            elif op == STORE_BFLOAT16:
                stored = results[target].view(np.uint16)[start : start + size]
                loops.round_to_bfloat16(first.view(np.uint32), stored)
                found[target] |= loops.any_exponent_full_16(stored, np.uint16(0x7F80))
            elif op == STORE_FLOAT16:
                stored = results[target].view(np.uint16)[start : start + size]
                loops.round_to_float16(first.view(np.uint32), stored)
                found[target] |= loops.any_exponent_full_16(stored, np.uint16(0x7C00))
            elif op == COUNT_HIGH:
                counting.count_high(first.view(np.uint32), counts)
            elif op == COUNT_EQUAL:
                found[target] += counting.count_equal(
                    first.view(np.uint32), np.uint32(integers[integer])
                )
            elif op == COUNT_NEAR:
                low, width = np.uint32(integers[integer]), np.uint32(integers[integer + 1])
                shift = np.uint32(integers[integer + 2])
                for k in range(counting.GUESSES):
                    guesses[k] = np.uint32(integers[integer + 3 + k])
                flags, others = spare.view(np.uint32), elected.view(np.uint32)
                raw = first.view(np.uint32)
                counting.count_near(raw, guesses, low, width, shift, counts, flags, others)
