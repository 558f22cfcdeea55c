"""Iso-C: the summed deltas with equal singular values (arXiv 2502.04959, algorithm 1)."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.values import Value
from mergegrid.methods.matrices import (
    Doubles,
    WholeDelta,
    column_blocks,
    column_products,
    copies,
    is_wide,
    matrix_prepasses,
    mean_added,
    row_products,
    singular_values,
)


class IsoC(Method):
    """Summed deltas whose singular values are all set to their mean (Iso-C, arXiv 2502.04959)."""

    whole_rows: ClassVar[bool] = True

    kind: Literal["iso_c"] = "iso_c"
    coefficient: Value = 1.0
    """Factor of the merged delta; the paper finds 0.8 to 1.5 on validation data."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * mean(S) U V^T of matrices, with U S V^T the sum of the deltas.

        The mean is over min(out, in) singular values, of which those below 1e-5 of the largest
        count as 0 and keep their direction at 0, so that deltas of low rank stay of low rank.
        Embeddings are matrices, too; of all other tensors the deltas are averaged.
        """
        if len(chunk.chunk.shape) != 2:
            return mean_added(chunk, chunk.number(self.coefficient))
        ops, deltas = chunk.ops, chunk.deltas
        isotropic = chunk.result("isotropic")
        if isinstance(isotropic, WholeDelta):
            merged = isotropic.of(chunk)
        else:
            total = ops.weighted_sum(deltas, [1.0] * len(deltas))
            merged = ops.times_matrices([total], [isotropic], chunk.chunk.row)
        return ops.plus(chunk.base, merged, chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The matrix by which rows become isotropic or, of wide matrices, the result itself."""
        return matrix_prepasses(inputs, "isotropic", _isotropic)

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """Gram matrix of the shorter side, its eigenvectors and work space, in float64.

        Of matrices with more columns than rows, the matrix itself in float32 as well.
        """
        return max(
            (
                5 * 8 * min(info.shape) ** 2 + (4 * info.count if is_wide(info.shape) else 0)
                for info in infos.values()
                if len(info.shape) == 2
            ),
            default=0,
        )


def _isotropic(inputs: MethodInputs, name: str) -> Rounds:
    """mean(S) V S^-1 V^T [in, in], or for wide matrices the isotropic deltas.

    Both come from eigenvectors of the Gram matrix of the shorter side, summed in float64: that is
    exact to float32 for singular values above the cut.
    """
    shape = inputs.infos[name].shape

    def total(chunk: Chunk) -> list[Array]:
        deltas = inputs.merge_chunk(chunk).deltas
        return [chunk.ops.weighted_sum(deltas, [1.0] * len(deltas))]

    if not is_wide(shape):
        (((gram,)),) = yield column_products(shape, 1, total)
        return _flattening(gram)
    ((whole,),) = yield copies(shape, 1, total)
    flattening = _flattening(row_products(whole))
    with one_blas_thread():
        for block in column_blocks(whole):
            block[:] = flattening @ block.astype(np.float64)
    return WholeDelta(whole.reshape(-1))


def _flattening(gram: Doubles) -> Doubles:
    """mean(S) X S^-1 X^T, where X S^2 X^T is the Gram matrix [n, n]."""
    singular, vectors = singular_values(gram)
    mean = singular.sum() / len(gram)
    with one_blas_thread():
        flattening: Doubles = (vectors * (mean / singular)) @ vectors.T
    return flattening
