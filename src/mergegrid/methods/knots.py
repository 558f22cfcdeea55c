"""KnOTS: TIES in the common basis of all deltas of a matrix (arXiv 2410.19735, section 4)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import HIGH_BINS, LOW_BITS, Array
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.values import Value
from mergegrid.methods.matrices import (
    Doubles,
    Floats,
    WholeDelta,
    column_slices,
    from_copies,
    is_layer,
    is_stored_transposed,
    mean_added,
    other_side,
    row_products,
    singular_values,
)
from mergegrid.sparsifiers.rates import Rate, Scope

Bits = NDArray[np.uint32]
Counts = NDArray[np.int64]
_MAGNITUDE = np.uint32(0x7FFFFFFF)


class Knots(Method):
    """TIES in the common basis of all deltas of a matrix (KnOTS-TIES, arXiv 2410.19735)."""

    whole_rows: ClassVar[bool] = True

    kind: Literal["knots"] = "knots"
    coefficient: Value = 1.0
    """Factor of the merged delta; the paper finds 0.1 to 1 on validation data."""
    trim: Rate = 0.8
    """Share of elements of smallest magnitude that each expert loses in the common basis; the paper
    searches 0.6 to 0.8."""
    scope: Scope = "global"
    """Whether the share is trimmed of each matrix or of all linear layers together, which takes two
    more passes over the models."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * U T of linear layers, with U S V^T the deltas side by side.

        In the basis of the columns of U, expert k has the elements R_k = U^T d_k [rank, in]. Each
        expert loses the round(trim * n) smallest of its n elements, and what is equal to the
        largest of them; T is the mean of those that are left and have the sign of their sum, and 0
        where the sum is. Singular values below 1e-5 of the largest have no direction, so R of
        adapters is as small as their rank. Equal singular values leave U open: results may then
        differ between machines. The deltas of all other tensors are averaged, embeddings and heads
        included.
        """
        if not is_layer(chunk.chunk.name, chunk.chunk.shape):
            return mean_added(chunk, chunk.number(self.coefficient))
        merged: WholeDelta = chunk.result(self._key("merged"))
        return chunk.ops.plus(chunk.base, merged.of(chunk), chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The cuts of all experts, if they are global; the merged delta of every linear layer."""
        layers = tuple(name for name, info in inputs.infos.items() if is_layer(name, info.shape))
        whole = self.scope == "global" and self.trim > 0
        if whole and layers:
            rounds = partial(self._global_cuts, inputs)
            yield Prepass(self._key("cuts"), layers, rounds, holds_matrices=True)
        for name in layers:
            rounds = partial(self._merged, inputs, whole)
            yield Prepass(self._key("merged"), (name,), rounds, after=whole, holds_matrices=True)

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """Deltas in both bases and the merged one; the basis with what it is computed from."""

        def of_layer(name: str, info: TensorInfo) -> int:
            rows, columns = info.shape[::-1] if is_stored_transposed(name, infos) else info.shape
            joined = experts * columns
            basis = 5 * rows**2 if rows <= joined else joined * (5 * joined + rows)
            return 4 * (3 * experts + 2) * info.count + 8 * (4 * info.count + basis)

        layers = (of_layer(*item) for item in infos.items() if is_layer(item[0], item[1].shape))
        return max(layers, default=0)

    def _global_cuts(self, inputs: MethodInputs) -> Rounds:
        """The largest magnitude that each expert loses, over all layers."""
        high = yield from _counted(inputs, HIGH_BINS, lambda bits, _: bits >> np.uint32(LOW_BITS))
        # All experts have as many elements.
        rank = round(self.trim * int(high[0].sum()))
        if rank == 0:
            return [0.0] * len(high)
        leading = [_bin_of(counts, rank) for counts in high]

        def low_bits(bits: Bits, expert: int) -> Bits:
            near: Bits = bits[bits >> LOW_BITS == leading[expert][0]]
            return near & np.uint32((1 << LOW_BITS) - 1)

        low = yield from _counted(inputs, 1 << LOW_BITS, low_bits)
        cuts = []
        for counts, (upper, below) in zip(low, leading, strict=True):
            lower, _ = _bin_of(counts, rank - below)
            cuts.append(float(np.uint32((upper << LOW_BITS) + lower).view(np.float32)))
        return cuts

    def _merged(self, inputs: MethodInputs, whole: bool) -> Rounds:
        cuts: list[float] = []

        def deltas(chunk: Chunk) -> list[Array]:
            merge_chunk = inputs.merge_chunk(chunk)
            if whole and not cuts:
                cuts.extend(merge_chunk.result(self._key("cuts")))
            return merge_chunk.deltas

        def merged(name: str, wholes: list[Floats]) -> WholeDelta:
            basis, parts = _in_common_basis(_by_outputs(inputs, name, wholes))
            limits = cuts or [_cut(part, self.trim) for part in parts]
            total = _elected_mean(parts, limits)
            result = np.empty((len(basis), total.shape[1]), np.float32)
            with one_blas_thread():
                for columns in column_slices(result):
                    result[:, columns] = basis @ total[:, columns]
            (stored,) = _by_outputs(inputs, name, [result])
            return WholeDelta(np.ascontiguousarray(stored).reshape(-1))

        ((result,),) = yield from_copies(len(inputs.experts), deltas, merged)
        return result

    def _key(self, name: str) -> tuple[object, ...]:
        return name, self.trim, self.scope


def _by_outputs(inputs: MethodInputs, name: str, matrices: list[Floats]) -> list[Floats]:
    """Matrices [out, in] of those that a tensor stores, or the other way round."""
    flipped = is_stored_transposed(name, inputs.infos)
    return [matrix.T for matrix in matrices] if flipped else matrices


def _in_common_basis(deltas: Sequence[Floats]) -> tuple[Doubles, list[Floats]]:
    """Orthogonal columns [out, rank] that span all deltas, and each delta in them [rank, in]."""
    basis = _basis(deltas)
    parts = []
    with one_blas_thread():
        for delta in deltas:
            part = np.empty((basis.shape[1], delta.shape[1]), np.float32)
            for columns in column_slices(delta):
                part[:, columns] = basis.T @ delta[:, columns]
            parts.append(part)
    return basis, parts


def _basis(deltas: Sequence[Floats]) -> Doubles:
    rows, columns = deltas[0].shape
    if rows <= len(deltas) * columns:
        gram = np.zeros((rows, rows))
        for delta in deltas:
            gram += row_products(delta)
        return singular_values(gram)[1]
    # Of the smaller side: U is D V / S.
    singular, right = singular_values(row_products(*(delta.T for delta in deltas)))
    basis = np.zeros((rows, len(singular)))
    for delta, vectors in zip(deltas, np.split(right, len(deltas)), strict=True):
        basis += other_side(delta.T, vectors)
    return basis / singular


def _elected_mean(parts: Sequence[Floats], cuts: Sequence[float]) -> Doubles:
    """Mean of the elements above their cut that have the sign of their sum [rank, in]."""
    trimmed = [
        np.where(np.abs(part) > cut, part, np.float32(0))
        for part, cut in zip(parts, cuts, strict=True)
    ]
    elected = np.sign(sum(trimmed[1:], start=trimmed[0].astype(np.float64)))
    total, count = np.zeros(elected.shape), np.zeros(elected.shape)
    for part in trimmed:
        agrees = part * elected > 0
        total += np.where(agrees, part, 0)
        count += agrees
    mean: Doubles = total / np.maximum(count, 1)
    return mean


def _cut(part: Floats, trim: float) -> float:
    """The round(trim * n)-th smallest magnitude of n; 0 for none."""
    rank = round(trim * part.size)
    return float(np.partition(np.abs(part), rank - 1, axis=None)[rank - 1]) if rank else 0.0


def _counted(inputs: MethodInputs, length: int, bins: Callable[[Bits, int], Bits]) -> Rounds:
    """Counts [experts, length] of the bins of the bits of all magnitudes in the common bases."""
    totals, lock = np.zeros((len(inputs.experts), length), np.int64), Lock()

    def count(name: str, wholes: list[Floats]) -> None:
        _, parts = _in_common_basis(_by_outputs(inputs, name, wholes))
        for expert, part in enumerate(parts):
            bits = part.reshape(-1).view(np.uint32) & _MAGNITUDE
            counts = np.bincount(bins(bits, expert), minlength=length)
            with lock:
                totals[expert] += counts

    yield from_copies(len(inputs.experts), lambda chunk: inputs.merge_chunk(chunk).deltas, count)
    return totals


def _bin_of(counts: Counts, rank: int) -> tuple[int, int]:
    """The bin of the `rank`-th smallest element, and the number of elements in the bins below."""
    total = counts.cumsum()
    index = int(np.searchsorted(total, rank))
    return index, int(total[index] - counts[index])
