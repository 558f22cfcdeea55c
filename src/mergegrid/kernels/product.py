"""A product of two thin matrices, of which any range of elements can be computed."""

from ctypes import byref, c_float, c_int64

import numpy as np
from numpy.typing import NDArray

from mergegrid.kernels.compiled import product_loop
from mergegrid.kernels.opcodes import TILE

Floats = NDArray[np.float32]


class Product:
    """scale * left @ right, row by row; `product_loop` defines every bit.

    Args:
        left: float32 [rows, rank].
        right: float32 [rank, columns].
        scale: the factor, which is rounded to float32.

    Raises:
        ValueError: the matrices do not fit together.
    """

    def __init__(self, left: Floats, right: Floats, scale: float = 1.0) -> None:
        (self.rows, rank), (other, self.columns) = left.shape, right.shape
        if rank != other or {left.dtype, right.dtype} != {np.dtype(np.float32)}:
            raise ValueError(
                f"{left.dtype} {left.shape} cannot be multiplied by {right.dtype} {right.shape}; "
                "pass float32 [rows, rank] and [rank, columns]"
            )
        self.rank, self._scale = rank, c_float(scale)
        self._left = np.ascontiguousarray(left)
        tiles = -(-self.columns // TILE)
        self._right = np.zeros((tiles, rank, TILE), np.float32)
        for tile, packed in enumerate(self._right):
            part = right[:, tile * TILE : (tile + 1) * TILE]
            packed[:, : part.shape[1]] = part
        self._multiply = product_loop()

    def elements(self, start: int, out: Floats) -> None:
        """Compute the elements from `start` on, as many as fit into `out`.

        Raises:
            ValueError: the product has fewer elements, or `out` is not a flat float32 array.
        """
        if out.dtype != np.float32 or out.ndim != 1 or not out.flags.carray:
            raise ValueError(f"out is {out.dtype} {out.shape}; pass a flat, writable float32 array")
        if start < 0 or start + out.size > self.rows * self.columns:
            raise ValueError(
                f"elements {start} to {start + out.size} are not all among the "
                f"{self.rows * self.columns} of the product"
            )
        if not out.size:
            return
        sizes = (c_int64 * 5)(self.rows, self.rank, self.columns, start, out.size)
        self._multiply(
            sizes,
            byref(self._scale),
            self._left.ctypes.data,
            self._right.ctypes.data,
            out.ctypes.data,
        )

    @staticmethod
    def bytes(rows: int, rank: int, columns: int) -> int:
        """Memory of a product in bytes."""
        return 4 * rank * (rows + -(-columns // TILE) * TILE)
