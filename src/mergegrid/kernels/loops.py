"""Loops over the elements of arrays, one for each opcode or part of one.

Every operand is cast explicitly: numba would make a uint64 of two uint32, and a float64 of a
float32 and a Python number. Nothing is contracted or reordered, so all processors give the same
bits.
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
"""Compiles a loop that cannot raise: dividing by zero gives an infinity or NaN, as in NumPy."""

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
    """Set all elements to a number."""
    for i in range(out.size):
        out[i] = number


@kernel
def copy(values: Floats, out: Floats) -> None:
    """Copy the elements."""
    for i in range(out.size):
        out[i] = values[i]


@kernel
def widen_bfloat16(stored: Halves, bits: Bits) -> None:
    """Convert bfloat16 to the bits of float32."""
    for i in range(stored.size):
        bits[i] = np.uint32(stored[i]) << np.uint32(16)


@kernel
def round_to_bfloat16(bits: Bits, stored: Halves) -> None:
    """Round to bfloat16, ties to even."""
    for i in range(bits.size):
        value = bits[i]
        even = np.uint32((value >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(np.uint32(value + np.uint32(0x7FFF)) + even) >> np.uint32(16)
        # Keep NaN a NaN: rounding up its payload could carry into the sign.
        is_nan = np.uint32(value & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        stored[i] = np.uint16(np.uint32(0x7FC0) if is_nan else rounded)


@kernel
def widen_float16(stored: Halves, bits: Bits) -> None:
    """Convert float16 to the bits of float32."""
    for i in range(stored.size):
        half = np.uint32(stored[i])
        sign = np.uint32(np.uint32(half & _SIGN_16) << np.uint32(16))
        magnitude = np.uint32(np.uint32(half & np.uint32(0x7FFF)) << np.uint32(13))
        # The exponents of the two dtypes differ by 112; the product is exact, even for subnormals.
        scaled = np.float32(magnitude.view(np.float32) * np.float32(2.0**112)).view(np.uint32)
        full = np.uint32(half & np.uint32(0x7C00)) == np.uint32(0x7C00)
        widened = np.uint32(magnitude | _INFINITY_32) if full else scaled
        bits[i] = np.uint32(sign | widened)


@kernel
def round_to_float16(bits: Bits, stored: Halves) -> None:
    """Round to float16, ties to even."""
    for i in range(bits.size):
        sign = np.uint32(bits[i] & _SIGN_32) >> np.uint32(16)
        value = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
        even = np.uint32((value >> np.uint32(13)) & np.uint32(1))
        shifted = np.uint32(value - np.uint32(112 << 23))
        normal = np.uint32(np.uint32(shifted + np.uint32(0x0FFF)) + even) >> np.uint32(13)
        # Adding 0.5 aligns the last bit of a subnormal with that of the sum, which rounds it.
        aligned = np.float32(value.view(np.float32) + np.float32(0.5)).view(np.uint32)
        subnormal = np.uint32(aligned - np.uint32(0x3F000000))
        half = subnormal if value < _LOWEST_NORMAL_16 else normal
        half = np.uint32(0x7C00) if value >= _OVERFLOW_16 else half
        half = np.uint32(0x7E00) if value > _INFINITY_32 else half
        stored[i] = np.uint16(half | sign)


@kernel
def any_nonfinite_16(stored: Halves, lowest: np.uint16) -> bool:
    """Whether an element is an infinity or NaN; `lowest` is the lowest bit of the exponent.

    Adding `lowest` to an exponent carries into the sign bit only if all exponent bits are set.
    """
    carries, exponent = np.uint16(0), np.uint16(np.uint16(0x8000) - lowest)
    for i in range(stored.size):
        carries = np.uint16(carries | np.uint16(np.uint16(stored[i] & exponent) + lowest))
    return bool(np.uint16(carries & np.uint16(0x8000)) != 0)


@kernel
def any_nonfinite_32(stored: Bits) -> bool:
    """Whether a float32 element is an infinity or NaN, computed in the same way."""
    carries = np.uint32(0)
    for i in range(stored.size):
        carries = np.uint32(carries | np.uint32(np.uint32(stored[i] & _INFINITY_32) + _EXPONENT_32))
    return bool(np.uint32(carries & _SIGN_32) != 0)


@kernel
def philox(
    k0: np.uint64, k1: np.uint64, c2: np.uint64, c3: np.uint64, first: np.uint64, out: Bits
) -> None:
    """Compute Philox4x32-10 words of consecutive blocks; counter = block number, c2, c3.

    Words are kept in the lower halves of 64-bit integers, whose upper halves are ignored. Source:
    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.3.
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
    """left - right."""
    for i in range(out.size):
        out[i] = np.float32(left[i] - right[i])


@kernel
def product(left: Floats, right: Floats, out: Floats) -> None:
    """left * right."""
    for i in range(out.size):
        out[i] = np.float32(left[i] * right[i])


@kernel
def quotient(left: Floats, right: Floats, out: Floats) -> None:
    """left / right."""
    for i in range(out.size):
        out[i] = np.float32(left[i] / right[i])


@kernel
def scaled(values: Floats, factor: np.float32, out: Floats) -> None:
    """factor * values."""
    for i in range(out.size):
        out[i] = np.float32(values[i] * factor)


@kernel
def plus_number(values: Floats, number: np.float32, out: Floats) -> None:
    """values + number."""
    for i in range(out.size):
        out[i] = np.float32(values[i] + number)


@kernel
def divided(values: Floats, divisor: np.float32, out: Floats) -> None:
    """values / divisor."""
    for i in range(out.size):
        out[i] = np.float32(values[i] / divisor)


@kernel
def thin(words: Bits, last: np.uint32, values: Floats, factor: np.float32, out: Floats) -> None:
    """factor * values where the word is at most `last`, else 0."""
    for i in range(out.size):
        product = np.float32(values[i] * factor)
        out[i] = product if words[i] <= last else np.float32(0)


@kernel
def add_two(
    one: Floats, weight: np.float32, other: Floats, other_weight: np.float32, out: Floats
) -> None:
    """weight * one + other_weight * other."""
    for i in range(out.size):
        out[i] = np.float32(np.float32(weight * one[i]) + np.float32(other_weight * other[i]))


@kernel
def add_one(total: Floats, array: Floats, weight: np.float32) -> None:
    """total += weight * array."""
    for i in range(total.size):
        total[i] = np.float32(total[i] + np.float32(weight * array[i]))


@kernel
def add_exactly(total: NDArray[np.float64], array: Floats, weight: np.float64) -> None:
    """total += weight * array, in float64."""
    for i in range(array.size):
        total[i] += weight * np.float64(array[i])


@kernel
def plus(base: Floats, change: Floats, factor: np.float32, out: Floats) -> None:
    """base + factor * change, and exactly base where that product is 0: a sum would lose -0.0."""
    for i in range(out.size):
        unchanged, product = base[i], np.float32(factor * change[i])
        changed = np.float32(unchanged + product)
        out[i] = unchanged if product == np.float32(0) else changed


@kernel
def where_changed(change: Floats, base: Floats, values: Floats, out: Floats) -> None:
    """values where change is not 0, else base."""
    for i in range(out.size):
        unchanged, changed = base[i], values[i]
        out[i] = unchanged if change[i] == np.float32(0) else changed


@kernel
def where_nonzero(mask: Floats, values: Floats, out: Floats) -> None:
    """values where mask is not 0, else 0."""
    for i in range(out.size):
        value = values[i]
        out[i] = np.float32(0) if mask[i] == np.float32(0) else value


@kernel
def exceeds(left: Floats, right: Floats, factor: np.float32, out: Floats) -> None:
    """1 where |left| > factor * |right|, else 0."""
    for i in range(out.size):
        limit = np.float32(factor * np.abs(right[i]))
        out[i] = np.float32(1) if np.abs(left[i]) > limit else np.float32(0)


@kernel
def keep_above(bits: Bits, threshold: np.uint32, out: Bits) -> None:
    """Keep elements whose magnitude exceeds the threshold; set the others to 0."""
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
    """Add weighted elements of the elected sign to the total, and their weight to the mass."""
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
    """Weighted mean of the elements of the elected sign; `agree` for two arrays, in one loop."""
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
    """total /= mass where mass is not 0; elsewhere the total is 0 and stays."""
    for i in range(total.size):
        divisor = np.float32(1) if mass[i] == np.float32(0) else mass[i]
        total[i] = np.float32(total[i] / divisor)


@kernel
def dot(left: Floats, right: Floats, sums: NDArray[np.float64]) -> None:
    """Add an inner product to `LANES` partial sums, element i to sum i modulo LANES."""
    whole = left.size // LANES * LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            sums[lane] += np.float64(left[i + lane]) * np.float64(right[i + lane])
    for i in range(whole, left.size):
        sums[i - whole] += np.float64(left[i]) * np.float64(right[i])
