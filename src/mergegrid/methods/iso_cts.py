"""Iso-CTS: common and specific directions of equal strength (arXiv 2502.04959, algorithm 2)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.values import Value
from mergegrid.methods.matrices import (
    CUT,
    Doubles,
    Floats,
    WholeDelta,
    copies,
    is_stored_transposed,
    is_wide,
    matrix_prepasses,
    mean_added,
    nearest_orthogonal,
    other_side,
    row_products,
    singular_values,
)
from mergegrid.sparsifiers.rates import Rate


class IsoCts(Method):
    """Directions of the sum and of each expert, made equally strong (Iso-CTS, arXiv 2502.04959)."""

    whole_rows: ClassVar[bool] = True

    kind: Literal["iso_cts"] = "iso_cts"
    coefficient: Value = 1.0
    """Factor of the merged delta; the paper finds 1.1 to 1.9 on validation data."""
    common: Rate = 0.8
    """Share of directions that come from the sum of the deltas, about: experts get the rest in
    equal numbers, and with less than half a direction for each, the result is Iso-C."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * mean(S) U V^T of matrices, from K experts.

        Of m = min(out, in) directions, each expert gives s = round((m - int(common * m)) / K), and
        the sum of the deltas the k = m - s K of largest singular values, C. An expert's are those
        of its delta without its part in C, (I - C C^T) d with C [out, k]. All singular values, with
        their vectors side by side, are S, and U and V the nearest orthogonal matrices. Values below
        1e-5 of the largest of the sum, or of the norm of an expert's delta, count as 0 and keep
        their direction at 0. Directions that several experts share count once. Embeddings are
        matrices, too; of all other tensors the deltas are averaged.
        """
        if len(chunk.chunk.shape) != 2:
            return mean_added(chunk, chunk.number(self.coefficient))
        merged: WholeDelta = chunk.result(self._key())
        return chunk.ops.plus(chunk.base, merged.of(chunk), chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The merged delta of every matrix."""
        return matrix_prepasses(inputs, self._key(), partial(_isotropic, self.common))

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """The deltas and their sum in float32; one delta, vectors and their factors in float64."""
        return max(
            (
                4 * (experts + 2) * info.count + 8 * (6 * info.count + 8 * min(info.shape) ** 2)
                for info in infos.values()
                if len(info.shape) == 2
            ),
            default=0,
        )

    def _key(self) -> str:
        return f"isotropic {self.common}"


def _isotropic(common: float, inputs: MethodInputs, name: str) -> Rounds:
    shape, count = inputs.infos[name].shape, len(inputs.experts)
    (deltas,) = yield copies(shape, count, lambda chunk: inputs.merge_chunk(chunk).deltas)
    flipped = is_stored_transposed(name, inputs.infos)
    if is_wide(shape):
        return WholeDelta(_merged(deltas, common, transposed=flipped).reshape(-1))
    merged = _merged([delta.T for delta in deltas], common, transposed=not flipped).T
    return WholeDelta(np.ascontiguousarray(merged).reshape(-1))


def _merged(deltas: Sequence[Floats], common: float, transposed: bool) -> Floats:
    """The merged delta [n, m] of deltas with at most as many rows as columns.

    If they are transposed, [in, out], their columns are the outputs.
    """
    rows, columns = deltas[0].shape
    specific = round((rows - int(common * rows)) / len(deltas))
    specific = min(specific, rows // len(deltas))
    total = sum(deltas[1:], start=deltas[0])
    if not np.isfinite(total).all():
        # The engine tells which model holds a NaN or infinity when it merges the tensor.
        return np.full((rows, columns), np.nan, np.float32)
    singular, vectors = singular_values(row_products(total))
    largest = rows - specific * len(deltas)
    strengths, left = [singular[:largest]], [vectors[:, :largest]]
    right = [other_side(total, left[0] / strengths[0])]
    common_outputs = right[0] if transposed else left[0]
    for delta in deltas if specific else ():
        rest = _without(delta, common_outputs, transposed)
        singular, vectors = singular_values(row_products(rest), 0)
        size = math.sqrt(np.square(delta, dtype=np.float64).sum())
        number = min(specific, np.count_nonzero(singular > CUT * size))
        strengths.append(singular[:number])
        left.append(vectors[:, :number])
        right.append(other_side(rest, left[-1] / strengths[-1]))
    mean = np.concatenate(strengths).sum() / rows
    with one_blas_thread():
        one = nearest_orthogonal(np.concatenate(left, axis=1)) * mean
        other = nearest_orthogonal(np.concatenate(right, axis=1))
        merged: Floats = (one @ other.T).astype(np.float32)
    return merged


def _without(delta: Floats, outputs: Doubles, transposed: bool) -> Doubles:
    """A delta without its part along orthogonal directions of the outputs."""
    rest: Doubles = delta.astype(np.float64)
    with one_blas_thread():
        if transposed:
            rest -= (rest @ outputs) @ outputs.T
        else:
            rest -= outputs @ (outputs.T @ rest)
    return rest
