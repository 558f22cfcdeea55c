"""The program loop: executes the instructions of a program block by block.

`opcodes.OPCODES` defines the instructions. `compiled` saves the machine code of `execute`, so
nothing that it calls may allocate or raise.
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
    ELECTED_SUM,
    EXCEEDS,
    KEEP_LARGE,
    LANES,
    LOAD_BFLOAT16,
    LOAD_FLOAT16,
    LOAD_FLOAT32,
    PLACE_OF_EQUAL,
    PLUS,
    PLUS_NUMBER,
    PRODUCT,
    QUOTIENT,
    RANDOM_WORDS,
    SCALED,
    SIZES,
    STORE_BFLOAT16,
    STORE_FLOAT16,
    STORE_FLOAT32,
    SUBTRACT,
    THIN,
    WEIGHTED_MEAN,
    WEIGHTED_SUM,
    WHERE_CHANGED,
    WHERE_NONZERO,
)

# The lowest bit of the exponent.
_EXPONENT_BFLOAT16, _EXPONENT_FLOAT16 = np.uint16(0x0080), np.uint16(0x0400)


def execute(
    sizes: Any,
    program: Any,
    floats: Any,
    integers: Any,
    inputs: Any,
    outputs: Any,
    registers: Any,
    scratch: Any,
    counts: Any,
    sums: Any,
    results: Any,
    nonfinite_input: Any,
) -> None:
    """Execute a program. Every argument is the address of an array.

    Args:
        sizes: int64 [SIZES]: number of elements; lengths of `program`, `floats` and `integers`;
            rows of `inputs` and bytes per row; rows of `outputs` and bytes per row; number of
            registers; length of `counts`; rows of `sums`; length of `results`.
        program: int64, instructions one after the other: opcode, target, index of its first float,
            index of its first integer, number of operands, and their registers.
        floats: float64, the float scalars of all instructions.
        integers: uint64, the integer scalars of all instructions.
        inputs: bytes [rows, length], arrays to load.
        outputs: bytes [rows, length], stored arrays.
        registers: float32 [number, BLOCK]; the last two are scratch space for any instruction.
        scratch: float64 [BLOCK].
        counts: int64, counts or a list, to add to.
        sums: float64 [parts, LANES], partial sums of inner products, to add to.
        results: int64, for each sink whether it stored an infinity or NaN, or its count.
        nonfinite_input: int64 [1], set to 1 when an infinity or NaN is loaded.
    """
    lengths = carray(sizes, SIZES, np.int64)
    count, length = lengths[0], lengths[1]
    code = carray(program, length, np.int64)
    real = carray(floats, lengths[2], np.float64)
    whole = carray(integers, lengths[3], np.uint64)
    # The same memory, viewed as elements of two sizes.
    inputs_16 = carray(inputs, (lengths[4], lengths[5] // 2), np.uint16)
    inputs_32 = carray(inputs, (lengths[4], lengths[5] // 4), np.float32)
    outputs_16 = carray(outputs, (lengths[6], lengths[7] // 2), np.uint16)
    outputs_32 = carray(outputs, (lengths[6], lengths[7] // 4), np.float32)
    values = carray(registers, (lengths[8], BLOCK), np.float32)
    bits = carray(registers, (lengths[8], BLOCK), np.uint32)
    exact = carray(scratch, BLOCK, np.float64)
    bins = carray(counts, lengths[9], np.int64)
    lanes = carray(sums, (lengths[10], LANES), np.float64)
    result = carray(results, lengths[11], np.int64)
    nonfinite = carray(nonfinite_input, 1, np.int64)
    last, last_but_one = lengths[8] - 1, lengths[8] - 2
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        stop = start + size
        at = 0
        while at < length:
            op, target = code[at], code[at + 1]
            first_float, first_int, operands = code[at + 2], code[at + 3], code[at + 4]
            at += 5
            if op < STORE_FLOAT32:
                out, out_bits = values[target, :size], bits[target, :size]
            if operands:
                first, first_bits = values[code[at], :size], bits[code[at], :size]
            if operands > 1:
                second = values[code[at + 1], :size]
            if op == LOAD_FLOAT32:
                loops.copy(inputs_32[whole[first_int], start:stop], out)
                nonfinite[0] |= loops.any_nonfinite_32(out_bits)
            elif op == LOAD_BFLOAT16:
                stored = inputs_16[whole[first_int], start:stop]
                loops.widen_bfloat16(stored, out_bits)
                nonfinite[0] |= loops.any_nonfinite_16(stored, _EXPONENT_BFLOAT16)
            elif op == LOAD_FLOAT16:
                stored = inputs_16[whole[first_int], start:stop]
                loops.widen_float16(stored, out_bits)
                nonfinite[0] |= loops.any_nonfinite_16(stored, _EXPONENT_FLOAT16)
            elif op == SUBTRACT:
                loops.subtract(first, second, out)
            elif op == PRODUCT:
                loops.product(first, second, out)
            elif op == QUOTIENT:
                loops.quotient(first, second, out)
            elif op == SCALED:
                loops.scaled(first, np.float32(real[first_float]), out)
            elif op == PLUS_NUMBER:
                loops.plus_number(first, np.float32(real[first_float]), out)
            elif op == DIVIDED:
                loops.divided(first, np.float32(real[first_float]), out)
            elif op == RANDOM_WORDS:
                # Only the last block can be short; round its words up to a multiple of four.
                words = bits[target, : (size + 3) // 4 * 4]
                key = whole[first_int : first_int + 5]
                loops.philox(key[0], key[1], key[2], key[3], key[4] + np.uint64(start // 4), words)
            elif op == THIN:
                if whole[first_int] == np.uint64(0):
                    loops.fill(np.float32(0), out)
                else:
                    highest = np.uint32(whole[first_int] - np.uint64(1))
                    loops.thin(first_bits, highest, second, np.float32(real[first_float]), out)
            elif op == WEIGHTED_SUM and operands == 1:
                loops.scaled(first, np.float32(real[first_float]), out)
            elif op == WEIGHTED_SUM:
                one, two = np.float32(real[first_float]), np.float32(real[first_float + 1])
                loops.add_two(first, one, second, two, out)
                for k in range(2, operands):
                    other = values[code[at + k], :size]
                    loops.add_one(out, other, np.float32(real[first_float + k]))
            elif op == WEIGHTED_MEAN:
                for i in range(size):
                    exact[i] = real[first_float] * np.float64(first[i])
                for k in range(1, operands):
                    loops.add_exactly(exact, values[code[at + k], :size], real[first_float + k])
                for i in range(size):
                    out[i] = np.float32(exact[i] / real[first_float + operands])
            elif op == PLUS:
                loops.plus(first, second, np.float32(real[first_float]), out)
            elif op == WHERE_CHANGED:
                loops.where_changed(first, second, values[code[at + 2], :size], out)
            elif op == WHERE_NONZERO:
                loops.where_nonzero(first, second, out)
            elif op == EXCEEDS:
                loops.exceeds(first, second, np.float32(real[first_float]), out)
            elif op == KEEP_LARGE:
                floor = np.uint32(whole[first_int])
                place = min(max(np.int64(whole[first_int + 1]) - start, 0), size)
                loops.keep_above(
                    first_bits[:place], np.uint32(floor - np.uint32(1)), out_bits[:place]
                )
                loops.keep_above(first_bits[place:], floor, out_bits[place:])
            elif op == AGREEING_MEAN and operands == 2:
                one, two = np.float32(real[first_float]), np.float32(real[first_float + 1])
                undecided = np.float32(real[first_float + 2])
                loops.agree_of_two(first, one, second, two, undecided, out)
            elif op in (AGREEING_MEAN, ELECTED_SUM):
                elected, mass = values[last_but_one, :size], values[last, :size]
                loops.fill(np.float32(0), elected)
                for k in range(operands):
                    vote = np.float32(real[first_float + k])
                    if op == AGREEING_MEAN:
                        vote = np.float32(1)
                    loops.add_one(elected, values[code[at + k], :size], vote)
                loops.fill(np.float32(0), out)
                loops.fill(np.float32(0), mass)
                undecided = np.float32(real[first_float + operands])
                for k in range(operands):
                    weight = np.float32(real[first_float + k])
                    delta = values[code[at + k], :size]
                    loops.agree(elected, undecided, delta, weight, out, mass)
                if op == AGREEING_MEAN or whole[first_int] != np.uint64(0):
                    loops.divide(out, mass)
            elif op == STORE_FLOAT32:
                loops.copy(first, outputs_32[target, start:stop])
                result[target] |= loops.any_nonfinite_32(first_bits)
            elif op == STORE_BFLOAT16:
                stored = outputs_16[target, start:stop]
                loops.round_to_bfloat16(first_bits, stored)
                result[target] |= loops.any_nonfinite_16(stored, _EXPONENT_BFLOAT16)
            elif op == STORE_FLOAT16:
                stored = outputs_16[target, start:stop]
                loops.round_to_float16(first_bits, stored)
                result[target] |= loops.any_nonfinite_16(stored, _EXPONENT_FLOAT16)
            elif op == COUNT_HIGH:
                counting.count_high(first_bits, bins)
            elif op == COUNT_EQUAL:
                result[target] += counting.count_equal(first_bits, np.uint32(whole[first_int]))
            elif op == PLACE_OF_EQUAL:
                target_bits, rank = (
                    np.uint32(whole[first_int]),
                    np.int64(whole[first_int + 1]) - bins[0],
                )
                here = counting.count_equal(first_bits, target_bits)
                if 0 <= rank < here:
                    bins[1] = start + counting.place_of_equal(first_bits, target_bits, rank)
                bins[0] += here
            elif op == COUNT_NEAR:
                low, width = np.uint32(whole[first_int]), np.uint32(whole[first_int + 1])
                shift, guesses = (
                    np.uint32(whole[first_int + 2]),
                    whole[first_int + 3 : first_int + 7],
                )
                flags, others = bits[last, :size], bits[last_but_one, :size]
                counting.count_near(first_bits, guesses, low, width, shift, bins, flags, others)
            elif op == DOTS:
                row = np.int64(whole[first_int + 1]) + start // np.int64(whole[first_int])
                loops.dot(first, second, lanes[row])
            at += operands
