"""TSV-M: task singular vectors, made orthogonal to each other (arXiv 2412.00081, algorithm 1)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.values import Value
from mergegrid.methods.matrices import (
    Floats,
    WholeDelta,
    copies,
    is_wide,
    matrix_prepasses,
    mean_added,
    nearest_orthogonal,
    other_side,
    row_products,
    singular_values,
)


class TsvM(Method):
    """The strongest singular vectors of each delta, orthogonalized (TSV-M, arXiv 2412.00081)."""

    whole_rows: ClassVar[bool] = True

    kind: Literal["tsv_m"] = "tsv_m"
    coefficient: Value = 1.0
    """Factor of the merged delta."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * U S V^T of matrices, with U and V the nearest orthogonal matrices.

        Of K experts, each gives the min(out, in) // K largest singular values of its delta, S, and
        their vectors, which stand side by side. Directions that several experts share count once,
        so that equal experts return their delta cut to that rank. Embeddings are matrices, too; of
        all other tensors the deltas are averaged.
        """
        if len(chunk.chunk.shape) != 2:
            return mean_added(chunk, chunk.number(self.coefficient))
        merged: WholeDelta = chunk.result("orthogonal")
        return chunk.ops.plus(chunk.base, merged.of(chunk), chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The merged delta of every matrix."""
        return matrix_prepasses(inputs, "orthogonal", _orthogonal)

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """The deltas in float32; vectors of both sides and their factors in float64."""
        return max(
            (
                4 * (experts + 1) * info.count + 8 * (4 * info.count + 8 * min(info.shape) ** 2)
                for info in infos.values()
                if len(info.shape) == 2
            ),
            default=0,
        )


def _orthogonal(inputs: MethodInputs, name: str) -> Rounds:
    shape, count = inputs.infos[name].shape, len(inputs.experts)
    (deltas,) = yield copies(shape, count, lambda chunk: inputs.merge_chunk(chunk).deltas)
    if is_wide(shape):
        return WholeDelta(_merged(deltas).reshape(-1))
    merged = _merged([delta.T for delta in deltas]).T
    return WholeDelta(np.ascontiguousarray(merged).reshape(-1))


def _merged(deltas: Sequence[Floats]) -> Floats:
    """The merged delta [n, m] of deltas with at most as many rows as columns."""
    rows, columns = deltas[0].shape
    count = rows // len(deltas)
    left, strengths, right = [], [], []
    for delta in deltas:
        singular, vectors = singular_values(row_products(delta))
        left.append(vectors[:, :count])
        strengths.append(singular[:count])
        right.append(other_side(delta, left[-1] / strengths[-1]))
    singular = np.concatenate(strengths)
    if not np.isfinite(singular).all():
        return np.full((rows, columns), np.nan, np.float32)
    with one_blas_thread():
        one = nearest_orthogonal(np.concatenate(left, axis=1)) * singular
        other = nearest_orthogonal(np.concatenate(right, axis=1))
        merged: Floats = (one @ other.T).astype(np.float32)
    return merged
