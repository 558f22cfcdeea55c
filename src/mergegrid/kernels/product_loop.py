"""The product loop: elements of a product of two thin matrices, in a fixed order.

Every element is the sum over the rank, in order, of fused multiply-adds in float32, and then
multiplied by the scale. So its bits depend on no other element: not on which range is computed, nor
on the processor. A BLAS routine rounds the same element differently in ranges of different shapes.

The right matrix is packed in tiles of `TILE` columns, one after the other: rows of a matrix with
2,048 columns would all map to the same lines of the cache.
"""

from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from mergegrid.kernels.loops import Floats, kernel
from mergegrid.kernels.opcodes import TILE


@intrinsic
def fma(typing: Any, left: Any, right: Any, addend: Any) -> Any:
    """left * right + addend, rounded once."""
    signature = types.float32(types.float32, types.float32, types.float32)
    return signature, lambda _context, builder, _signature, operands: builder.fma(*operands)


@kernel
def one_row(left: Floats, tile: Floats, first: int, scale: np.float32, out: Floats) -> None:
    """Elements of one row: left [rank] times the columns of a tile [rank, TILE] from `first` on."""
    rank, end = left.size, first + out.size
    for j in range(out.size):
        out[j] = np.float32(0)
    for k in range(rank):
        factor, right = left[k], tile[k, first:end]
        for j in range(out.size):
            out[j] = fma(factor, right[j], out[j])
    for j in range(out.size):
        out[j] = np.float32(scale * out[j])


@kernel
def two_rows(
    left: Floats, below: Floats, tile: Floats, scale: np.float32, out: Floats, out_below: Floats
) -> None:
    """Elements of two rows and all columns: the same numbers, four ranks at a time."""
    rank, size = left.size, out.size
    for j in range(size):
        out[j] = out_below[j] = np.float32(0)
    whole = rank // 4 * 4
    for k in range(0, whole, 4):
        r0, r1, r2, r3 = tile[k, :size], tile[k + 1, :size], tile[k + 2, :size], tile[k + 3, :size]
        a0, a1, a2, a3 = left[k], left[k + 1], left[k + 2], left[k + 3]
        b0, b1, b2, b3 = below[k], below[k + 1], below[k + 2], below[k + 3]
        for j in range(size):
            out[j] = fma(a3, r3[j], fma(a2, r2[j], fma(a1, r1[j], fma(a0, r0[j], out[j]))))
            under = fma(b1, r1[j], fma(b0, r0[j], out_below[j]))
            out_below[j] = fma(b3, r3[j], fma(b2, r2[j], under))
    for k in range(whole, rank):
        a, b, right = left[k], below[k], tile[k, :size]
        for j in range(size):
            out[j] = fma(a, right[j], out[j])
            out_below[j] = fma(b, right[j], out_below[j])
    for j in range(size):
        out[j] = np.float32(scale * out[j])
        out_below[j] = np.float32(scale * out_below[j])


def multiply(sizes: Any, factor: Any, left: Any, right: Any, out: Any) -> None:
    """Compute elements of a product. Every argument is the address of an array.

    Args:
        sizes: int64 [5]: rows, rank, columns, first element and number of elements.
        factor: float32 [1], the scale.
        left: float32 [rows, rank].
        right: float32 [tiles, rank, TILE], of which the last tile may be filled up.
        out: float32 [number of elements], elements of the product row by row.
    """
    numbers = carray(sizes, 5, np.int64)
    rows, rank, columns, start, count = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    tiles = (columns + TILE - 1) // TILE
    scale = carray(factor, 1, np.float32)[0]
    lefts = carray(left, (rows, rank), np.float32)
    rights = carray(right, (tiles, rank, TILE), np.float32)
    outs = carray(out, count, np.float32)
    first_row, end_row = start // columns, (start + count + columns - 1) // columns
    for tile in range(tiles):
        low, high = tile * TILE, min(tile * TILE + TILE, columns)
        row = first_row
        while row < end_row:
            # Where the columns of the row begin in `out`, and the part of the tile that is asked.
            at = row * columns - start
            begin, end = max(low, -at), min(high, count - at)
            if begin == low and at + columns + high <= count and row + 1 < end_row:
                two_rows(
                    lefts[row],
                    lefts[row + 1],
                    rights[tile],
                    scale,
                    outs[at + low : at + high],
                    outs[at + columns + low : at + columns + high],
                )
                row += 2
            else:
                if begin < end:
                    here = outs[at + begin : at + end]
                    one_row(lefts[row], rights[tile], begin - low, scale, here)
                row += 1
