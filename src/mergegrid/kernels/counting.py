"""Loops that count magnitudes: what finds the threshold of a selection (`merging.selection`)."""

import numpy as np
from numpy.typing import NDArray

from mergegrid.kernels.loops import Bits, kernel
from mergegrid.kernels.opcodes import LIST_OTHERS

Counts = NDArray[np.int64]
Guesses = NDArray[np.uint64]
"""Four distinct magnitudes, or the bits of none."""

_MAGNITUDE = np.uint32(0x7FFFFFFF)


@kernel
def count_high(bits: Bits, counts: Counts) -> None:
    """Histogram of the leading 15 bits of magnitudes, and after it the number of zeros."""
    zeros = np.int64(0)
    for i in range(bits.size):
        zeros += np.int64(np.uint32(bits[i] & _MAGNITUDE) == np.uint32(0))
    counts[0] += zeros
    counts[counts.size - 1] += zeros
    if zeros == bits.size:
        return
    for i in range(bits.size):
        magnitude = np.uint32(bits[i] & _MAGNITUDE)
        if magnitude != np.uint32(0):
            counts[magnitude >> np.uint32(16)] += 1


@kernel
def count_equal(bits: Bits, wanted: np.uint32) -> np.int64:
    """Number of magnitudes with the wanted bits."""
    count = np.int64(0)
    for i in range(bits.size):
        count += np.int64(np.uint32(bits[i] & _MAGNITUDE) == wanted)
    return count


@kernel
def count_near(
    bits: Bits,
    guesses: Guesses,
    low: np.uint32,
    width: np.uint32,
    shift: np.uint32,
    counts: Counts,
    flags: Bits,
    found: Bits,
) -> None:
    """Magnitudes below `low`, equal to each guess, and the others in low + [0, width), in bins.

    Guesses are four distinct magnitudes in that range, or the bits of none. With the shift
    `LIST_OTHERS`, the others are counted together and listed in what is left of `counts`, while
    there is room, in order. `flags` and `found` are room for 256 numbers, or as many as there are.
    """
    first, second = np.uint32(guesses[0]), np.uint32(guesses[1])
    third, fourth = np.uint32(guesses[2]), np.uint32(guesses[3])
    for start in range(0, bits.size, 256):
        part = bits[start : start + 256]
        below = near = ones = twos = threes = fours = np.uint32(0)
        for i in range(part.size):
            magnitude = np.uint32(part[i] & _MAGNITUDE)
            below = np.uint32(below + np.uint32(magnitude < low))
            near = np.uint32(near + np.uint32(np.uint32(magnitude - low) < width))
            ones = np.uint32(ones + np.uint32(magnitude == first))
            twos = np.uint32(twos + np.uint32(magnitude == second))
            threes = np.uint32(threes + np.uint32(magnitude == third))
            fours = np.uint32(fours + np.uint32(magnitude == fourth))
        counts[0] += below
        counts[1] += ones
        counts[2] += twos
        counts[3] += threes
        counts[4] += fours
        if near != np.uint32(np.uint32(ones + twos) + np.uint32(threes + fours)):
            others = _others(part, guesses, low, width, flags, found)
            if shift == LIST_OTHERS:
                for i in range(others):
                    counts[5] += 1
                    if 5 + counts[5] < counts.size:
                        counts[5 + counts[5]] = np.int64(found[i])
            else:
                for i in range(others):
                    counts[5 + (np.uint32(found[i] - low) >> shift)] += 1


@kernel
def _others(
    bits: Bits, guesses: Guesses, low: np.uint32, width: np.uint32, flags: Bits, found: Bits
) -> np.uint64:
    """Find the magnitudes in low + [0, width) that are no guess; how many there are.

    They come without a branch, which would be mispredicted for every one of them.
    """
    first, second = np.uint32(guesses[0]), np.uint32(guesses[1])
    third, fourth = np.uint32(guesses[2]), np.uint32(guesses[3])
    for i in range(bits.size):
        magnitude = np.uint32(bits[i] & _MAGNITUDE)
        near = np.uint32(np.uint32(magnitude - low) < width)
        known = (
            np.uint32(magnitude == first)
            | np.uint32(magnitude == second)
            | np.uint32(magnitude == third)
            | np.uint32(magnitude == fourth)
        )
        flags[i] = np.uint32(near & ~known)
    count = np.uint64(0)
    for i in range(bits.size):
        found[count] = np.uint32(bits[i] & _MAGNITUDE)
        count += np.uint64(flags[i])
    return count


@kernel
def place_of_equal(bits: Bits, wanted: np.uint32, rank: np.int64) -> np.int64:
    """Index of the magnitude with the wanted bits that has `rank` such before it."""
    passed = np.int64(-1)
    for i in range(bits.size):
        passed += np.int64(np.uint32(bits[i] & _MAGNITUDE) == wanted)
        if passed == rank:
            return np.int64(i)
    return np.int64(-1)
