"""Loops over numbers that the program loop runs through.

Operands are cast one by one: two uint32 would otherwise become a uint64, and two float32 with a
Python number a float64. Nothing is contracted or reordered, so every processor gives the same bits.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mergegrid.kernels.opcodes import LANES

Floats = NDArray[np.float32]
Bits = NDArray[np.uint32]
Halves = NDArray[np.uint16]
kernel: Any = njit(error_model="numpy", forceinline=True)
"""Compiles a loop: it cannot raise, so dividing by zero gives what NumPy gives."""

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10
_SIGN_16, _SIGN_32 = np.uint32(0x8000), np.uint32(0x80000000)
_INFINITY_32 = np.uint32(0x7F800000)
_EXPONENT_32 = np.uint32(0x00800000)  # Its lowest bit.
_LOWEST_NORMAL_16 = np.uint32(0x38800000)  # 2**-14
_OVERFLOW_16 = np.uint32(0x477FF000)  # 65520: from here on float16 is infinite.


@kernel
def fill(number: np.float32, out: Floats) -> None:
    """The same number everywhere."""
    for i in range(out.size):
        out[i] = number


@kernel
def copy(values: Floats, out: Floats) -> None:
    """The same numbers."""
    for i in range(out.size):
        out[i] = values[i]


@kernel
def widen_bfloat16(stored: Halves, bits: Bits) -> None:
    """The float32 bits of bfloat16 numbers."""
    for i in range(stored.size):
        bits[i] = np.uint32(stored[i]) << np.uint32(16)


@kernel
def round_to_bfloat16(bits: Bits, stored: Halves) -> None:
    """The nearest bfloat16 numbers, ties to even."""
    for i in range(bits.size):
        value = bits[i]
        even = np.uint32((value >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(np.uint32(value + np.uint32(0x7FFF)) + even) >> np.uint32(16)
        # A NaN stays one: rounding up its payload could carry into the sign.
        is_nan = np.uint32(value & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        stored[i] = np.uint16(np.uint32(0x7FC0) if is_nan else rounded)


@kernel
def widen_float16(stored: Halves, bits: Bits) -> None:
    """The float32 bits of float16 numbers."""
    for i in range(stored.size):
        half = np.uint32(stored[i])
        sign = np.uint32(np.uint32(half & _SIGN_16) << np.uint32(16))
        magnitude = np.uint32(np.uint32(half & np.uint32(0x7FFF)) << np.uint32(13))
        # The exponents of the two types are 112 apart; the product is exact, subnormals included.
        scaled = np.float32(magnitude.view(np.float32) * np.float32(2.0**112)).view(np.uint32)
        full = np.uint32(half & np.uint32(0x7C00)) == np.uint32(0x7C00)
        widened = np.uint32(magnitude | _INFINITY_32) if full else scaled
        bits[i] = np.uint32(sign | widened)


@kernel
def round_to_float16(bits: Bits, stored: Halves) -> None:
    """The nearest float16 numbers, ties to even."""
    for i in range(bits.size):
        sign = np.uint32(bits[i] & _SIGN_32) >> np.uint32(16)
        value = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
        even = np.uint32((value >> np.uint32(13)) & np.uint32(1))
        shifted = np.uint32(value - np.uint32(112 << 23))
        normal = np.uint32(np.uint32(shifted + np.uint32(0x0FFF)) + even) >> np.uint32(13)
        # Adding 0.5 aligns a subnormal's last bit with that of the sum, which rounds it.
        aligned = np.float32(value.view(np.float32) + np.float32(0.5)).view(np.uint32)
        subnormal = np.uint32(aligned - np.uint32(0x3F000000))
        half = subnormal if value < _LOWEST_NORMAL_16 else normal
        half = np.uint32(0x7C00) if value >= _OVERFLOW_16 else half
        half = np.uint32(0x7E00) if value > _INFINITY_32 else half
        stored[i] = np.uint16(half | sign)


@kernel
def any_exponent_full_16(stored: Halves, lowest: np.uint16) -> bool:
    """Whether a 16-bit number is an infinity or NaN; `lowest` is the lowest bit of exponents.

    One more than a full exponent, and only that, is carried to where the sign was.
    """
    found, exponent = np.uint16(0), np.uint16(np.uint16(0x8000) - lowest)
    for i in range(stored.size):
        found = np.uint16(found | np.uint16(np.uint16(stored[i] & exponent) + lowest))
    return bool(np.uint16(found & np.uint16(0x8000)) != 0)


@kernel
def any_exponent_full_32(stored: Bits) -> bool:
    """Whether a float32 number is an infinity or NaN, found in the same way."""
    found = np.uint32(0)
    for i in range(stored.size):
        found = np.uint32(found | np.uint32(np.uint32(stored[i] & _INFINITY_32) + _EXPONENT_32))
    return bool(np.uint32(found & _SIGN_32) != 0)


@kernel
def philox(
    k0: np.uint64, k1: np.uint64, c2: np.uint64, c3: np.uint64, first: np.uint64, out: Bits
) -> None:
    """Philox4x32-10 words of consecutive blocks; counter = block number, then c2 and c3.

    Words are the lower halves of 64 bits, where the processor multiplies them; what is in the upper
    halves is left there. Source: Salmon, Moraes, Dror,
    Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.3.
    """
    for i in range(out.size // 4):
        block = np.uint64(first + np.uint64(i))
        x0, x1, x2, x3 = block & _LOW, block >> _HALF, c2, c3
        a, b = k0, k1
        for _ in range(_ROUNDS):
            p0, p1 = (x0 & _LOW) * _MULTIPLIER_0, (x2 & _LOW) * _MULTIPLIER_1
            x0, x1 = (p1 >> _HALF) ^ x1 ^ a, p1
            x2, x3 = (p0 >> _HALF) ^ x3 ^ b, p0
            a, b = (a + _WEYL_0) & _LOW, (b + _WEYL_1) & _LOW
        out[4 * i] = np.uint32(x0)
        out[4 * i + 1] = np.uint32(x1)
        out[4 * i + 2] = np.uint32(x2)
        out[4 * i + 3] = np.uint32(x3)


@kernel
def subtract(left: Floats, right: Floats, out: Floats) -> None:
    """Left minus right."""
    for i in range(out.size):
        out[i] = np.float32(left[i] - right[i])


@kernel
def product(left: Floats, right: Floats, out: Floats) -> None:
    """Left times right."""
    for i in range(out.size):
        out[i] = np.float32(left[i] * right[i])


@kernel
def quotient(left: Floats, right: Floats, out: Floats) -> None:
    """Left over right."""
    for i in range(out.size):
        out[i] = np.float32(left[i] / right[i])


@kernel
def scaled(values: Floats, factor: np.float32, out: Floats) -> None:
    """Values times a factor."""
    for i in range(out.size):
        out[i] = np.float32(values[i] * factor)


@kernel
def plus_number(values: Floats, number: np.float32, out: Floats) -> None:
    """Values plus a number."""
    for i in range(out.size):
        out[i] = np.float32(values[i] + number)


@kernel
def divided(values: Floats, divisor: np.float32, out: Floats) -> None:
    """Values over a divisor."""
    for i in range(out.size):
        out[i] = np.float32(values[i] / divisor)


@kernel
def thin(words: Bits, last: np.uint32, values: Floats, factor: np.float32, out: Floats) -> None:
    """Values times factor where the word is at most `last`."""
    for i in range(out.size):
        product = np.float32(values[i] * factor)
        out[i] = product if words[i] <= last else np.float32(0)


@kernel
def add_two(
    one: Floats, weight: np.float32, other: Floats, other_weight: np.float32, out: Floats
) -> None:
    """Weighted sum of two arrays."""
    for i in range(out.size):
        out[i] = np.float32(np.float32(weight * one[i]) + np.float32(other_weight * other[i]))


@kernel
def add_one(total: Floats, array: Floats, weight: np.float32) -> None:
    """Add a weighted array in place."""
    for i in range(total.size):
        total[i] = np.float32(total[i] + np.float32(weight * array[i]))


@kernel
def add_exactly(total: NDArray[np.float64], array: Floats, weight: np.float64) -> None:
    """Add a weighted array to a float64 one in place."""
    for i in range(array.size):
        total[i] += weight * np.float64(array[i])


@kernel
def plus(base: Floats, change: Floats, factor: np.float32, out: Floats) -> None:
    """Base plus change; base where the change is zero, whose sign a sum could lose."""
    for i in range(out.size):
        unchanged, product = base[i], np.float32(factor * change[i])
        changed = np.float32(unchanged + product)
        out[i] = unchanged if product == np.float32(0) else changed


@kernel
def instead(change: Floats, base: Floats, values: Floats, out: Floats) -> None:
    """Values where the change is not zero, else the base."""
    for i in range(out.size):
        unchanged, changed = base[i], values[i]
        out[i] = unchanged if change[i] == np.float32(0) else changed


@kernel
def masked(mask: Floats, values: Floats, out: Floats) -> None:
    """Values where the mask is not zero, else zero."""
    for i in range(out.size):
        value = values[i]
        out[i] = np.float32(0) if mask[i] == np.float32(0) else value


@kernel
def keep_above(bits: Bits, threshold: np.uint32, out: Bits) -> None:
    """Zero magnitudes that are not above the threshold."""
    for i in range(out.size):
        keeps = np.uint32(bits[i] & _MAGNITUDE) > threshold
        out[i] = np.uint32(bits[i] * np.uint32(keeps))


@kernel
def agree(
    elected: Floats,
    undecided: np.float32,
    delta: Floats,
    weight: np.float32,
    total: Floats,
    mass: Floats,
) -> None:
    """Add what has the elected sign to the total, and its weight to the mass."""
    zero = np.float32(0)
    for i in range(total.size):
        value = delta[i]
        side = undecided if elected[i] == zero else elected[i]
        agrees = ((value > zero) & (side > zero)) | ((value < zero) & (side < zero))
        weighted = np.float32(weight * value)
        total[i] = np.float32(total[i] + (weighted if agrees else zero))
        mass[i] = np.float32(mass[i] + (weight if agrees else zero))


@kernel
def agree_of_two(
    one: Floats,
    weight: np.float32,
    other: Floats,
    other_weight: np.float32,
    undecided: np.float32,
    out: Floats,
) -> None:
    """The mean of what has the elected sign, of two: the same steps as of more, in one loop."""
    zero = np.float32(0)
    for i in range(out.size):
        elected = np.float32(one[i] + other[i])
        side = undecided if elected == zero else elected
        agrees = ((one[i] > zero) & (side > zero)) | ((one[i] < zero) & (side < zero))
        too = ((other[i] > zero) & (side > zero)) | ((other[i] < zero) & (side < zero))
        weighted = np.float32(weight * one[i]) if agrees else zero
        more = np.float32(other_weight * other[i]) if too else zero
        total = np.float32(np.float32(zero + weighted) + more)
        mass = np.float32((weight if agrees else zero) + (other_weight if too else zero))
        out[i] = np.float32(total / (np.float32(1) if mass == zero else mass))


@kernel
def divide(total: Floats, mass: Floats) -> None:
    """Total over mass in place; where there is no mass the total is zero and stays."""
    for i in range(total.size):
        divisor = np.float32(1) if mass[i] == np.float32(0) else mass[i]
        total[i] = np.float32(total[i] / divisor)


@kernel
def dot(left: Floats, right: Floats, sums: NDArray[np.float64]) -> None:
    """Add an inner product to `LANES` sums, element i to sum i modulo LANES."""
    whole = left.size // LANES * LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            sums[lane] += np.float64(left[i + lane]) * np.float64(right[i + lane])
    for i in range(whole, left.size):
        sums[i - whole] += np.float64(left[i]) * np.float64(right[i])
