"""WUDI: the delta that interferes least with any expert's (arXiv 2503.08099, equation 6)."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.engine.values import Value
from mergegrid.errors import ConfigError
from mergegrid.methods.matrices import Doubles, column_products, is_layer

# Linear layers of GPT-2 are stored [in, out].
_TRANSPOSED = re.compile(r"(^|\.)(c_attn|c_fc|c_proj)\.weight$")
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
            return chunk.base
        factors = chunk.result(self._key())
        merged = chunk.ops.times_matrices(chunk.deltas, factors, chunk.chunk.row)
        return chunk.ops.plus(chunk.base, merged, chunk.number(self.coefficient))

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The factors [in, in] of every linear layer and expert.

        Raises:
            ConfigError: a layer is stored transposed, or its solution would explode.
        """
        layers = [name for name, info in inputs.infos.items() if is_layer(name, info.shape)]
        for name in layers:
            self._check_layer(name, inputs.infos[name], len(inputs.experts))
        return [
            Prepass(self._key(), (name,), partial(self._factors, inputs, name), holds_matrices=True)
            for name in layers
        ]

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """Gram matrices and factors of one layer in float64: 2 K + 4 matrices [in, in]."""
        widths = [info.shape[1] for name, info in infos.items() if is_layer(name, info.shape)]
        return 8 * (2 * experts + 4) * max(widths, default=0) ** 2

    def _check_layer(self, name: str, info: TensorInfo, experts: int) -> None:
        if _TRANSPOSED.search(name):
            raise ConfigError(
                f"wudi needs linear layers [out, in], but {name} is stored [in, out], as in GPT-2; "
                "use another method"
            )
        rows, columns = info.shape
        low, high = _POLE
        if experts > 1 and self.ridge < _STABLE_RIDGE and low < experts * rows / columns < high:
            raise ConfigError(
                f"wudi with ridge = {self.ridge:g} is unstable for {name}: the {experts} x {rows} "
                f"rows of the experts are about as many as its {columns} columns; set ridge to 0.01"
            )

    def _factors(self, inputs: MethodInputs, name: str) -> Rounds:
        shape, count = inputs.infos[name].shape, len(inputs.experts)
        fold = column_products(shape, count, lambda chunk: inputs.merge_chunk(chunk).deltas)
        (grams,) = yield fold
        return self._solve(grams)

    def _solve(self, grams: list[Doubles]) -> list[Doubles]:
        """(G_k + r/n I) (A + r I)^-1 of each expert."""
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
        with one_blas_thread():
            values, vectors = np.linalg.eigh(total)
            kept = values > _CUT * values.max(initial=0)
            inverse = np.divide(1, values + ridge, out=np.zeros(width), where=kept)
            inverted = (vectors * inverse) @ vectors.T
            for gram in changed:
                gram[np.diag_indices(width)] += ridge / len(changed)
            # An unchanged layer has deltas of zero, whatever its factor.
            return [gram @ inverted for gram in grams]

    def _key(self) -> tuple[str, float]:
        return "factors", self.ridge
