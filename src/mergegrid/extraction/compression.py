"""Exact low-rank factors of a sum of low-rank matrices, without ever forming the sum.

Σ Lₖ Rₖ = [L₁ L₂ ...] [R₁; R₂; ...]. With the QR decompositions of both sides, [L...] = Q₁ T₁ and
[R...]ᵀ = Q₂ T₂, the sum is Q₁ (T₁ T₂ᵀ) Q₂ᵀ, and the singular value decomposition of the small core
T₁ T₂ᵀ is that of the sum.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mergegrid.extraction.low_rank import Doubles, Factors

Pair = tuple[NDArray[np.floating], NDArray[np.floating]]
"""Left [rows, rank] and right [rank, columns] of a product."""


def compress(pairs: Sequence[Pair], most: int | None = None) -> Factors | None:
    """Factors of a sum of products, at its numerical rank or at a lower one, in float64.

    Args:
        pairs: the products.
        most: the largest rank; None: all directions.

    Returns:
        The factors, with the singular values split evenly; None if the sum is 0.
    """
    left, right = _side([one for one, _ in pairs]), _side([other.T for _, other in pairs])
    (left_basis, left_core), (right_basis, right_core) = np.linalg.qr(left), np.linalg.qr(right)
    u, values, v = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    # As numpy.linalg.matrix_rank counts; sums that cancel leave values at the level of rounding.
    scale = np.linalg.norm(left_core) * np.linalg.norm(right_core)
    rank = int(np.count_nonzero(values > scale * max(*left.shape, *right.shape) * _EPSILON))
    if rank == 0:
        return None
    squares = values[:rank] ** 2
    rank = min(rank, most or rank)
    root = np.sqrt(values[:rank])
    return Factors(
        left_basis @ (u[:, :rank] * root),
        (root[:, None] * v[:rank]) @ right_basis.T,
        float(squares[:rank].sum() / squares.sum()),
    )


def norm(pairs: Sequence[Pair]) -> float:
    """Frobenius norm of a sum of products."""
    left, right = _side([one for one, _ in pairs]), _side([other.T for _, other in pairs])
    (_, left_core), (_, right_core) = np.linalg.qr(left), np.linalg.qr(right)
    return float(np.linalg.norm(left_core @ right_core.T))


_EPSILON = float(np.finfo(np.float64).eps)


def _side(parts: Sequence[NDArray[np.floating]]) -> Doubles:
    return np.concatenate(parts, axis=1, dtype=np.float64)
