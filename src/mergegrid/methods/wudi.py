"""WUDI: the delta that interferes least with any expert's (arXiv 2503.08099, equation 6)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.values import Value
from mergegrid.errors import ConfigError
from mergegrid.methods.matrices import (
    Doubles,
    Floats,
    WholeDelta,
    column_blocks,
    column_products,
    copies,
    is_layer,
    is_stored_transposed,
    is_wide,
    row_products,
)

# Without a ridge of this size, the solution explodes where the rows of all experts together are
# nearly as many as the columns.
_STABLE_RIDGE = 1e-3
_POLE = (0.8, 1.25)
# Eigenvalues below this share of the largest are rounding noise.
_CUT = 1e-12


class Wudi(Method):
    """The delta that interferes least with any expert's (WUDI, arXiv 2503.08099), exactly."""

    whole_rows: ClassVar[bool] = True

    kind: Literal["wudi"] = "wudi"
    coefficient: Value = 1.0
    """Factor of the merged delta."""
    ridge: Annotated[float, Field(ge=0)] = 0.01
    """Pull towards the mean of the deltas, as a multiple of the mean diagonal of the system; 0 is
    the exact optimum, which explodes where experts times rows are about as many as columns."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + coefficient * the delta D that minimizes sum_k |(D - d_k) d_k^T|^2 / |d_k|^2.

        With G_k = d_k^T d_k / |d_k|^2 for linear layers [out, in], A = sum_k G_k over the n experts
        that changed the layer, and r = ridge * n / in: D = sum_k d_k (G_k + r/n I) (A + r I)^-1.
        One expert and equal experts are returned. Vectors, embeddings, output heads and all other
        tensors are the base's. The published procedure takes 300 steps of Adam towards the optimum
        without a ridge, and ends far from it.
        """
        if not is_layer(chunk.chunk.name, chunk.chunk.shape):
            # The experts are read nevertheless: an element that is not finite is an error.
            ignored = chunk.ops.weighted_sum(chunk.deltas, [0.0] * len(chunk.deltas))
            return chunk.ops.plus(chunk.base, ignored, 1.0)
        solution = chunk.result(self._key())
        if isinstance(solution, WholeDelta):
            merged = solution.of(chunk)
        else:
            merged = chunk.ops.times_matrices(chunk.deltas, solution, chunk.chunk.row)
        return chunk.ops.plus(chunk.base, merged, chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The factors [in, in] of every linear layer and expert, or the merged deltas themselves.

        Raises:
            ConfigError: a layer is stored transposed, or its solution would explode.
        """
        layers = [name for name, info in inputs.infos.items() if is_layer(name, info.shape)]
        for name in layers:
            self._check_layer(name, inputs.infos, len(inputs.experts))
        return [
            Prepass(
                self._key(), (name,), partial(self._solution, inputs, name), holds_matrices=True
            )
            for name in layers
        ]

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """Products, their inverse and factors in float64; whole deltas in float32 if held."""
        shapes = [info.shape for name, info in infos.items() if is_layer(name, info.shape)]
        return max((_bytes(shape, experts) for shape in shapes), default=0)

    def _check_layer(self, name: str, infos: Mapping[str, TensorInfo], experts: int) -> None:
        if is_stored_transposed(name, infos):
            raise ConfigError(
                f"wudi needs linear layers [out, in], but {name} is stored [in, out], as in GPT-2; "
                "use another method"
            )
        rows, columns = infos[name].shape
        low, high = _POLE
        if experts > 1 and self.ridge < _STABLE_RIDGE and low < experts * rows / columns < high:
            raise ConfigError(
                f"wudi with ridge = {self.ridge:g} is unstable for {name}: the {experts} x {rows} "
                f"rows of the experts are about as many as its {columns} columns; set ridge to 0.01"
            )

    def _solution(self, inputs: MethodInputs, name: str) -> Rounds:
        shape, count = inputs.infos[name].shape, len(inputs.experts)

        def deltas(chunk: Chunk) -> list[Array]:
            return inputs.merge_chunk(chunk).deltas

        if is_wide(shape):
            (wholes,) = yield copies(shape, count, deltas)
            return WholeDelta(self._merged(wholes).reshape(-1))
        (grams,) = yield column_products(shape, count, deltas)
        return self._factors(grams)

    def _factors(self, grams: list[Doubles]) -> list[Doubles]:
        """(G_k + r/n I) (A + r I)^-1 of each expert, from d_k^T d_k."""
        width = len(grams[0])
        squares = [np.trace(gram) for gram in grams]
        changed = [gram for gram, square in zip(grams, squares, strict=True) if square != 0]
        total = np.zeros((width, width))
        for gram, square in zip(grams, squares, strict=True):
            if square != 0:
                gram /= square
                total += gram
        ridge = self.ridge * len(changed) / width
        if not np.isfinite(total).all():
            # The engine tells which model holds a NaN or infinity when it merges the tensor.
            return [total for _ in grams]
        inverse = self._inverse(total, ridge)
        for gram in changed:
            gram[np.diag_indices(width)] += ridge / len(changed)
        with one_blas_thread():
            for number, gram in enumerate(grams):
                # An unchanged layer has deltas of zero, whatever its factor.
                grams[number] = gram @ inverse
        return grams

    def _merged(self, deltas: list[Floats]) -> Floats:
        """D of wide matrices, for which C = sum_k d_k (G_k + r/n I) is smaller than its factors."""
        rows, columns = deltas[0].shape
        products = [row_products(delta) for delta in deltas]
        if not all(np.isfinite(product).all() for product in products):
            return np.full((rows, columns), np.nan, np.float32)
        norms = [float(np.sqrt(np.trace(product))) for product in products]
        deltas = [delta for delta, norm in zip(deltas, norms, strict=True) if norm]
        products = [product for product, norm in zip(products, norms, strict=True) if norm]
        norms = [norm for norm in norms if norm]
        merged = np.zeros((rows, columns), np.float32)
        if not deltas:
            return merged
        ridge = self.ridge * len(deltas) / columns
        for product, norm in zip(products, norms, strict=True):
            product /= norm**2
            product[np.diag_indices(rows)] += ridge / len(deltas)
        if len(deltas) * rows < columns:
            left = self._by_rows(deltas, products, norms, ridge)
            with one_blas_thread():
                for target, *blocks in zip(*map(column_blocks, (merged, *deltas)), strict=True):
                    target[:] = _sum_of_products(left, blocks)
            return merged
        total, inner = np.zeros((columns, columns)), np.empty((rows, columns))
        with one_blas_thread():
            for delta, norm in zip(deltas, norms, strict=True):
                unit = delta.astype(np.float64) / norm
                total += unit.T @ unit
            for target, *blocks in zip(
                column_blocks(inner), *map(column_blocks, deltas), strict=True
            ):
                target[:] = _sum_of_products(products, blocks)
            merged[:] = inner @ self._inverse(total, ridge)
        return merged

    def _by_rows(
        self, deltas: list[Floats], products: list[Doubles], norms: list[float], ridge: float
    ) -> list[Doubles]:
        """Factors [out, out] of the deltas, if they have fewer rows together than columns.

        With B the rows of all d_k / |d_k|, A = B^T B and B (B^T B + r I)^-1 = (B B^T + r I)^-1 B,
        so that D = [|d_k| (B_k B_k^T + r/n I)]_k (B B^T + r I)^-1 B, where B B^T is the smaller.

        Args:
            deltas: of the experts that changed the layer.
            products: B_k B_k^T + r/n I of each.
            norms: |d_k|.
            ridge: r.
        """
        rows = len(deltas[0])
        scales = np.repeat([1 / norm for norm in norms], rows)
        together = row_products(*deltas)
        together *= scales
        together *= scales[:, None]
        left = np.concatenate(
            [norm * product for norm, product in zip(norms, products, strict=True)], axis=1
        )
        with one_blas_thread():
            left = left @ self._inverse(together, ridge) * scales
        return np.split(left, len(deltas), axis=1)

    def _inverse(self, matrix: Doubles, ridge: float) -> Doubles:
        """(matrix + ridge I)^-1 of a symmetric matrix [n, n], which it may overwrite.

        With a small ridge or none, directions that are rounding noise have an inverse of 0.
        """
        inverted: Doubles
        with one_blas_thread():
            if self.ridge >= _STABLE_RIDGE and ridge:
                matrix[np.diag_indices(len(matrix))] += ridge
                inverted = np.linalg.inv(matrix).astype(np.float64, copy=False)
                return inverted
            values, vectors = np.linalg.eigh(matrix)
            kept = values > _CUT * values.max(initial=0)
            inverse = np.divide(1, values + ridge, out=np.zeros(len(matrix)), where=kept)
            inverted = (vectors * inverse) @ vectors.T
        return inverted

    def _key(self) -> tuple[str, float]:
        return "factors", self.ridge


def _sum_of_products(factors: list[Doubles], blocks: Sequence[Floats]) -> Doubles:
    """Sum of factor [n, n] times block [n, m]."""
    total = np.zeros(blocks[0].shape)
    for factor, block in zip(factors, blocks, strict=True):
        total += factor @ block.astype(np.float64)
    return total


def _bytes(shape: tuple[int, ...], experts: int) -> int:
    """Memory for one layer [out, in]."""
    rows, columns = shape
    if not is_wide(shape):
        return 8 * (experts + 5) * columns**2
    held = 4 * (experts + 1) * rows * columns + 8 * experts * rows**2
    if experts * rows < columns:
        return held + 8 * 6 * (experts * rows) ** 2
    return held + 8 * (3 * rows * columns + 5 * columns**2)
