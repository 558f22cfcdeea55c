"""Whole matrices of deltas, for methods by singular values or least squares.

Gram matrices are summed in float64, in fixed blocks and in order, so that they depend on neither
threads nor chunks. BLAS and LAPACK run with one thread; other processors may round differently.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.layers import is_embedding
from mergegrid.checkpoints.vocabulary import is_vocabulary
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import FOLD_CHUNK, Fold, Prepass, Rounds

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Arrays = Callable[[Chunk], list[Array]]
"""The arrays of a chunk that a fold is about, such as the delta of each expert."""
_FLOAT32 = DTYPES["float32"]
CUT = 1e-5
"""Singular values below this share of the largest are rounding of float32 weights. Without a cut,
each direction of rounding noise would count as a real one."""
# Linear layers of GPT-2, and those of them that have more outputs than inputs.
_OF_GPT2 = re.compile(r"(^|\.)(c_attn|c_fc|c_proj)\.weight$")
_WIDENING = re.compile(r"(^|\.)(c_attn|c_fc)\.weight$")
_TABLES = re.compile(r"(position|token_type)_embeddings\.")
# Singular vectors of several matrices that are equal to this degree are one direction.
_DEPENDENT = 1e-10
# Eigenvalues of the products of unit vectors down to this share of the largest give the polar
# factor to 1e-8, which is exact to float32, in half the time of singular values.
_EXACT = 1e-9


@dataclass(frozen=True)
class WholeDelta:
    """The merged delta of a whole matrix, flattened."""

    values: Floats

    def of(self, chunk: MergeChunk) -> Array:
        """Its elements in a chunk."""
        return chunk.ops.load(self.values[chunk.chunk.start : chunk.chunk.stop], _FLOAT32)


def matrix_prepasses(
    inputs: MethodInputs, key: str, rounds: Callable[[MethodInputs, str], Rounds]
) -> list[Prepass]:
    """A pre-pass for every matrix, embeddings included."""
    return [
        Prepass(key, (name,), partial(rounds, inputs, name), holds_matrices=True)
        for name, info in inputs.infos.items()
        if len(info.shape) == 2 and info.count
    ]


def mean_added(chunk: MergeChunk, coefficient: float) -> Array:
    """base + coefficient * mean of the deltas, which is what vectors get."""
    ops, deltas = chunk.ops, chunk.deltas
    total = ops.weighted_sum(deltas, [1.0] * len(deltas))
    return ops.plus(chunk.base, total, coefficient / len(deltas))


def is_layer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the weight of a linear layer: no embeddings, no head."""
    if len(shape) != 2 or 0 in shape:
        return False
    return not (is_vocabulary(name) or is_embedding(name) or _TABLES.search(name))


def is_stored_transposed(name: str, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether a linear layer is stored [in, out], as in GPT-2.

    Other models have the names, but store [out, in]: the shapes of layers with more outputs than
    inputs tell them apart.
    """
    return _OF_GPT2.search(name) is not None and any(
        len(info.shape) == 2 and is_wide(info.shape)
        for other, info in infos.items()
        if _WIDENING.search(other)
    )


def is_wide(shape: tuple[int, ...]) -> bool:
    """Whether a matrix has more columns than rows."""
    return shape[0] < shape[1]


def column_products(shape: tuple[int, ...], count: int, arrays: Arrays) -> Fold:
    """A round that sums the products X^T X [in, in] of `count` matrices X [out, in]."""

    def add(grams: list[Doubles], chunk: Chunk) -> None:
        for gram, rows in zip(grams, _rows(chunk, arrays), strict=True):
            values = rows.astype(np.float64)
            with one_blas_thread():
                gram += values.T @ values

    return Fold(lambda: [np.zeros((shape[1], shape[1])) for _ in range(count)], add)


def copies(shape: tuple[int, ...], count: int, arrays: Arrays) -> Fold:
    """A round that copies `count` whole matrices [out, in] into memory."""

    def add(wholes: list[Floats], chunk: Chunk) -> None:
        start, stop = chunk.start // chunk.row, chunk.stop // chunk.row
        for whole, rows in zip(wholes, _rows(chunk, arrays), strict=True):
            whole[start:stop] = rows

    return Fold(lambda: [np.empty(shape, np.float32) for _ in range(count)], add)


def from_copies(count: int, arrays: Arrays, compute: Callable[[str, list[Floats]], Any]) -> Fold:
    """A round that copies `count` whole matrices and keeps what is computed of them.

    Its outcome is one list per tensor, with that as its only element. `compute` gets the name of
    the tensor and its matrices.
    """

    def add(state: list[Any], chunk: Chunk) -> None:
        fold = copies(chunk.shape, count, arrays)
        if chunk.start == 0:
            state.append(fold.start())
        fold.add(state[0], chunk)
        if chunk.stop == math.prod(chunk.shape):
            state[0] = compute(chunk.name, state[0])

    return Fold(list, add)


def column_slices(matrix: NDArray[Any]) -> list[slice]:
    """Slices of the columns of a matrix [n, m] that fit into memory as float64."""
    width = max(FOLD_CHUNK // max(len(matrix), 1), 1)
    return [slice(start, start + width) for start in range(0, matrix.shape[1], width)]


def column_blocks(matrix: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of these columns."""
    return [matrix[:, columns] for columns in column_slices(matrix)]


def row_products(*matrices: NDArray[Any]) -> Doubles:
    """X X^T [n, n] of the matrix X [n, m] with the rows of all matrices, which have one shape."""
    count = sum(map(len, matrices))
    gram = np.zeros((count, count))
    with one_blas_thread():
        for blocks in zip(*map(column_blocks, matrices), strict=True):
            values = np.concatenate(blocks, dtype=np.float64)
            gram += values @ values.T
    return gram


def singular_values(gram: Doubles, cut: float = CUT) -> tuple[Doubles, Doubles]:
    """Singular values [r] of a matrix, in falling order, and its vectors [n, r] on one side.

    Args:
        gram: X X^T or X^T X, [n, n].
        cut: share of the largest singular value that those of real directions exceed.
    """
    if not np.isfinite(gram).all():
        # The engine tells which model holds a NaN or infinity when it merges the tensor.
        return np.full(1, math.nan), np.full((len(gram), 1), math.nan)
    with one_blas_thread():
        squares, vectors = np.linalg.eigh(gram)
    singular = np.sqrt(np.maximum(squares[::-1], 0))
    kept = singular > cut * singular.max(initial=0)
    return singular[kept], vectors[:, ::-1][:, kept]


def other_side(matrix: NDArray[Any], vectors: Doubles) -> Doubles:
    """X^T V [m, r] of a matrix X [n, m] and vectors V [n, r]."""
    with one_blas_thread():
        return np.concatenate(
            [block.astype(np.float64).T @ vectors for block in column_blocks(matrix)]
        )


def decomposed(matrix: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Singular value decomposition U [n, r], S [r] and V^T [r, m] of a matrix [n, m]."""
    try:
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        # Some builds of LAPACK do not converge where hundreds of singular values are equal, as
        # those of orthogonal vectors are; the transposed problem takes other steps.
        flipped, singular, other = np.linalg.svd(matrix.T, full_matrices=False)
        left, right = other.T, flipped.T
    return left, singular, right


def nearest_orthogonal(vectors: Doubles) -> Doubles:
    """The polar factor P Q^T of P S Q^T [n, r], without directions that depend on others."""
    nearest: Doubles
    squares, right = np.linalg.eigh(vectors.T @ vectors)
    if len(squares) and squares[0] > _EXACT * squares[-1]:
        nearest = vectors @ (right / np.sqrt(squares) @ right.T)
        return nearest
    # Products of the vectors lose small angles.
    left, singular, right = decomposed(vectors)
    kept = singular > _DEPENDENT * singular.max(initial=0)
    nearest = left[:, kept] @ right[kept]
    return nearest


def _rows(chunk: Chunk, arrays: Arrays) -> list[Floats]:
    lists = arrays(chunk)
    stored = chunk.ops.store(lists, [_FLOAT32] * len(lists))
    for values, finite in stored:
        if not finite:
            # Also where a sparsifier drops the NaN or infinity, the engine is to find it.
            values.fill(math.nan)
    return [values.reshape(-1, chunk.row) for values, _ in stored]
