"""The program loop: instructions for arrays, carried out block by block.

`compiled` keeps the machine code of `execute`, so nothing that it calls may allocate or raise.
"""

from typing import Any

import numpy as np
from numba import carray

from mergegrid.kernels import counting, loops
from mergegrid.kernels.opcodes import (
    AGREEING_MEAN,
    BLOCK,
    COUNT_EQUAL,
    COUNT_HIGH,
    COUNT_NEAR,
    DIVIDED,
    DOTS,
    INSTEAD,
    KEEP_LARGE,
    LANES,
    LOAD_BFLOAT16,
    LOAD_FLOAT16,
    LOAD_FLOAT32,
    MASKED,
    PLACE_OF_EQUAL,
    PLUS,
    PLUS_NUMBER,
    PRODUCT,
    QUOTIENT,
    SCALED,
    SIZES,
    STORE_BFLOAT16,
    STORE_FLOAT16,
    STORE_FLOAT32,
    SUBTRACT,
    THIN,
    WEIGHTED_MEAN,
    WEIGHTED_SUM,
    WORDS,
)

# The lowest bits of exponents.
_EXPONENT_BFLOAT16, _EXPONENT_FLOAT16 = np.uint16(0x0080), np.uint16(0x0400)


def execute(
    sizes: Any,
    program: Any,
    floats: Any,
    integers: Any,
    rooms: Any,
    results: Any,
    registers: Any,
    scratch: Any,
    counts: Any,
    sums: Any,
    found: Any,
    spoiled: Any,
) -> None:
    """Carry out a program; every argument is the address of an array.

    Args:
        sizes: int64 [SIZES], of the others: elements to go through; elements of `program`, `floats`
            and `integers`; rooms, and bytes of one; results, and bytes of one; registers; bins of
            `counts`; rows of `sums`; elements of `found`.
        program: int64, instructions one after the other: what, target, first of its `floats`, first
            of its `integers`, number of operands, and their registers.
        floats: float64, numbers of all instructions.
        integers: uint64, likewise.
        rooms: what is loaded, one array in each row.
        results: what is stored, one array in each row.
        registers: float32 [n, BLOCK], of which the last two are free for any instruction.
        scratch: float64 [BLOCK].
        counts: int64, histogram or list that is added to.
        sums: float64 [parts, LANES], sums of inner products that are added to.
        found: int64, of each sink whether it holds an infinity or NaN, or its count.
        spoiled: int64 [1], not 0 from where something that is loaded holds an infinity or NaN.
    """
    shape = carray(sizes, SIZES, np.int64)
    count, length = shape[0], shape[1]
    code = carray(program, length, np.int64)
    numbers = carray(floats, shape[2], np.float64)
    wholes = carray(integers, shape[3], np.uint64)
    # The same memory as numbers of two types.
    rooms_16 = carray(rooms, (shape[4], shape[5] // 2), np.uint16)
    rooms_32 = carray(rooms, (shape[4], shape[5] // 4), np.float32)
    results_16 = carray(results, (shape[6], shape[7] // 2), np.uint16)
    results_32 = carray(results, (shape[6], shape[7] // 4), np.float32)
    values = carray(registers, (shape[8], BLOCK), np.float32)
    bits = carray(registers, (shape[8], BLOCK), np.uint32)
    exact = carray(scratch, BLOCK, np.float64)
    bins = carray(counts, shape[9], np.int64)
    lanes = carray(sums, (shape[10], LANES), np.float64)
    result = carray(found, shape[11], np.int64)
    bad = carray(spoiled, 1, np.int64)
    last, last_but_one = shape[8] - 1, shape[8] - 2
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        stop = start + size
        at = 0
        while at < length:
            op, target = code[at], code[at + 1]
            number, integer, operands = code[at + 2], code[at + 3], code[at + 4]
            at += 5
            if op < STORE_FLOAT32:
                out, out_bits = values[target, :size], bits[target, :size]
            if operands:
                first, first_bits = values[code[at], :size], bits[code[at], :size]
            if operands > 1:
                second = values[code[at + 1], :size]
            if op == LOAD_FLOAT32:
                loops.copy(rooms_32[wholes[integer], start:stop], out)
                bad[0] |= loops.any_exponent_full_32(out_bits)
            elif op == LOAD_BFLOAT16:
                stored = rooms_16[wholes[integer], start:stop]
                loops.widen_bfloat16(stored, out_bits)
                bad[0] |= loops.any_exponent_full_16(stored, _EXPONENT_BFLOAT16)
            elif op == LOAD_FLOAT16:
                stored = rooms_16[wholes[integer], start:stop]
                loops.widen_float16(stored, out_bits)
                bad[0] |= loops.any_exponent_full_16(stored, _EXPONENT_FLOAT16)
            elif op == SUBTRACT:
                loops.subtract(first, second, out)
            elif op == PRODUCT:
                loops.product(first, second, out)
            elif op == QUOTIENT:
                loops.quotient(first, second, out)
            elif op == SCALED:
                loops.scaled(first, np.float32(numbers[number]), out)
            elif op == PLUS_NUMBER:
                loops.plus_number(first, np.float32(numbers[number]), out)
            elif op == DIVIDED:
                loops.divided(first, np.float32(numbers[number]), out)
            elif op == WORDS:
                # Blocks are whole, but for the last: its words are rounded up to four.
                words = bits[target, : (size + 3) // 4 * 4]
                key = wholes[integer : integer + 5]
                loops.philox(key[0], key[1], key[2], key[3], key[4] + np.uint64(start // 4), words)
            elif op == THIN:
                if wholes[integer] == np.uint64(0):
                    loops.fill(np.float32(0), out)
                else:
                    highest = np.uint32(wholes[integer] - np.uint64(1))
                    loops.thin(first_bits, highest, second, np.float32(numbers[number]), out)
            elif op == WEIGHTED_SUM and operands == 1:
                loops.scaled(first, np.float32(numbers[number]), out)
            elif op == WEIGHTED_SUM:
                one, two = np.float32(numbers[number]), np.float32(numbers[number + 1])
                loops.add_two(first, one, second, two, out)
                for k in range(2, operands):
                    other = values[code[at + k], :size]
                    loops.add_one(out, other, np.float32(numbers[number + k]))
            elif op == WEIGHTED_MEAN:
                for i in range(size):
                    exact[i] = numbers[number] * np.float64(first[i])
                for k in range(1, operands):
                    loops.add_exactly(exact, values[code[at + k], :size], numbers[number + k])
                for i in range(size):
                    out[i] = np.float32(exact[i] / numbers[number + operands])
            elif op == PLUS:
                loops.plus(first, second, np.float32(numbers[number]), out)
            elif op == INSTEAD:
                loops.instead(first, second, values[code[at + 2], :size], out)
            elif op == MASKED:
                loops.masked(first, second, out)
            elif op == KEEP_LARGE:
                floor = np.uint32(wholes[integer])
                place = min(max(np.int64(wholes[integer + 1]) - start, 0), size)
                loops.keep_above(
                    first_bits[:place], np.uint32(floor - np.uint32(1)), out_bits[:place]
                )
                loops.keep_above(first_bits[place:], floor, out_bits[place:])
            elif op == AGREEING_MEAN and operands == 2:
                one, two = np.float32(numbers[number]), np.float32(numbers[number + 1])
                undecided = np.float32(numbers[number + 2])
                loops.agree_of_two(first, one, second, two, undecided, out)
            elif op == AGREEING_MEAN:
                elected, mass = values[last_but_one, :size], values[last, :size]
                loops.fill(np.float32(0), elected)
                for k in range(operands):
                    loops.add_one(elected, values[code[at + k], :size], np.float32(1))
                loops.fill(np.float32(0), out)
                loops.fill(np.float32(0), mass)
                undecided = np.float32(numbers[number + operands])
                for k in range(operands):
                    weight = np.float32(numbers[number + k])
                    delta = values[code[at + k], :size]
                    loops.agree(elected, undecided, delta, weight, out, mass)
                loops.divide(out, mass)
            elif op == STORE_FLOAT32:
                loops.copy(first, results_32[target, start:stop])
                result[target] |= loops.any_exponent_full_32(first_bits)
            elif op == STORE_BFLOAT16:
                stored = results_16[target, start:stop]
                loops.round_to_bfloat16(first_bits, stored)
                result[target] |= loops.any_exponent_full_16(stored, _EXPONENT_BFLOAT16)
            elif op == STORE_FLOAT16:
                stored = results_16[target, start:stop]
                loops.round_to_float16(first_bits, stored)
                result[target] |= loops.any_exponent_full_16(stored, _EXPONENT_FLOAT16)
            elif op == COUNT_HIGH:
                counting.count_high(first_bits, bins)
            elif op == COUNT_EQUAL:
                result[target] += counting.count_equal(first_bits, np.uint32(wholes[integer]))
            elif op == PLACE_OF_EQUAL:
                wanted, rank = np.uint32(wholes[integer]), np.int64(wholes[integer + 1]) - bins[0]
                here = counting.count_equal(first_bits, wanted)
                if 0 <= rank < here:
                    bins[1] = start + counting.place_of_equal(first_bits, wanted, rank)
                bins[0] += here
            elif op == COUNT_NEAR:
                low, width = np.uint32(wholes[integer]), np.uint32(wholes[integer + 1])
                shift, guesses = np.uint32(wholes[integer + 2]), wholes[integer + 3 : integer + 7]
                flags, others = bits[last, :size], bits[last_but_one, :size]
                counting.count_near(first_bits, guesses, low, width, shift, bins, flags, others)
            elif op == DOTS:
                loops.dot(first, second, lanes[start // np.int64(wholes[integer])])
            at += operands
