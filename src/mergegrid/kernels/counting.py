"""Loops that count magnitudes, with which `engine.thresholds` finds the k-th value."""

import numpy as np
from numpy.typing import NDArray

from mergegrid.kernels.loops import Bits, kernel
from mergegrid.kernels.opcodes import LIST_OTHERS

Counts = NDArray[np.int64]
Guesses = NDArray[np.uint64]
"""Four distinct magnitudes, or bits that are not a magnitude."""

_MAGNITUDE = np.uint32(0x7FFFFFFF)


@kernel
def count_high(bits: Bits, counts: Counts) -> None:
    """Add to a histogram of the upper 15 bits of magnitudes; counts[-1] counts zeros."""
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
def count_equal(bits: Bits, target: np.uint32) -> np.int64:
    """Number of magnitudes equal to `target`."""
    count = np.int64(0)
    for i in range(bits.size):
        count += np.int64(np.uint32(bits[i] & _MAGNITUDE) == target)
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
    others: Bits,
) -> None:
    """Count magnitudes in and below the range low + [0, width).

    Adds to `counts`:

        counts[0]           magnitudes below the range
        counts[1] to [4]    magnitudes equal to each guess
        counts[5 + bin]     other magnitudes in the range, by bin = (magnitude - low) >> shift

    With the shift `LIST_OTHERS`, counts[5] is the number of other magnitudes, and they are listed
    in order from counts[6] on, as far as they fit. Guesses are four distinct magnitudes in the
    range, or bits that are not a magnitude. `flags` and `others` are scratch space [256].
    """
    first, second = np.uint32(guesses[0]), np.uint32(guesses[1])
    third, fourth = np.uint32(guesses[2]), np.uint32(guesses[3])
    for start in range(0, bits.size, 256):
        part = bits[start : start + 256]
        below = near = equal_1 = equal_2 = equal_3 = equal_4 = np.uint32(0)
        for i in range(part.size):
            magnitude = np.uint32(part[i] & _MAGNITUDE)
            below = np.uint32(below + np.uint32(magnitude < low))
            near = np.uint32(near + np.uint32(np.uint32(magnitude - low) < width))
            equal_1 = np.uint32(equal_1 + np.uint32(magnitude == first))
            equal_2 = np.uint32(equal_2 + np.uint32(magnitude == second))
            equal_3 = np.uint32(equal_3 + np.uint32(magnitude == third))
            equal_4 = np.uint32(equal_4 + np.uint32(magnitude == fourth))
        counts[0] += below
        counts[1] += equal_1
        counts[2] += equal_2
        counts[3] += equal_3
        counts[4] += equal_4
        if near != np.uint32(np.uint32(equal_1 + equal_2) + np.uint32(equal_3 + equal_4)):
            number = _collect_others(part, guesses, low, width, flags, others)
            if shift == LIST_OTHERS:
                for i in range(number):
                    counts[5] += 1
                    if 5 + counts[5] < counts.size:
                        counts[5 + counts[5]] = np.int64(others[i])
            else:
                for i in range(number):
                    counts[5 + (np.uint32(others[i] - low) >> shift)] += 1


@kernel
def _collect_others(
    bits: Bits, guesses: Guesses, low: np.uint32, width: np.uint32, flags: Bits, others: Bits
) -> np.uint64:
    """Collect the magnitudes in low + [0, width) that are not a guess; return their number.

    There is no branch, which would be mispredicted for every one of them.
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
        others[count] = np.uint32(bits[i] & _MAGNITUDE)
        count += np.uint64(flags[i])
    return count


@kernel
def place_of_equal(bits: Bits, target: np.uint32, rank: np.int64) -> np.int64:
    """Index of the magnitude equal to `target` that has `rank` equal ones before it, or -1."""
    passed = np.int64(-1)
    for i in range(bits.size):
        passed += np.int64(np.uint32(bits[i] & _MAGNITUDE) == target)
        if passed == rank:
            return np.int64(i)
    return np.int64(-1)
