"""RegMean: linear layers that fit every expert's outputs best (arXiv 2212.09849, section 3)."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.method import MergeChunk, MethodInputs, not_finite
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Prepass, Rounds
from mergegrid.errors import CheckpointError
from mergegrid.extras import require
from mergegrid.methods.average import Average, WeightValue
from mergegrid.methods.data_dependent import DataDependentMethod, Examples, check_shape
from mergegrid.sparsifiers.rates import Arithmetic, RateValue

# Largest condition number (of the 1-norm, estimated) of the sum, scaled to a diagonal of ones.
# Statistics are stored in float32, whose rounding lifts the eigenvalues of a singular sum from 0 to
# about 1e-7: such sums of 64 to 768 columns exceed it, while those of layers of MiniLM from enough
# texts reach about 1e9. Unscaled, harmless columns of different sizes would hide the difference.
_SINGULAR = 1e10


class RegMean(DataDependentMethod):
    """Linear layers that fit the experts' outputs best in least squares (arXiv 2212.09849)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"examples", "arithmetic"})
    whole_rows: ClassVar[bool] = True

    kind: Literal["regmean"] = "regmean"
    offdiagonal: RateValue = 0.9
    """Factor of the off-diagonal entries of the Gram matrices."""
    ridge: WeightValue = 0.0
    """Added to the diagonal of the summed Gram matrices, the same part for each expert, as a
    multiple of its mean; 1e-5 or more is needed where there are fewer inputs than columns."""
    examples: Examples | None = None
    """Training examples of each expert that the Gram matrices are gathered from; unset in a study,
    1024; unset in a merge file, whatever the files of statistics hold."""
    arithmetic: Arithmetic = "exact"
    """`exact` Gram matrices are of the tokens of texts; `reference` takes the padding of batches of
    16 for tokens, as the paper's code does."""

    def merge(self, chunk: MergeChunk) -> Array:
        """W = (sum_k W_k G_k) (sum_k G_k)^-1 for linear layers [out, in]; the mean for all else.

        G_k [in, in] is the Gram matrix of the layer's inputs under expert k, its off-diagonal
        entries times `offdiagonal`, with `ridge` / K times the mean of the diagonal of the sum
        added to the diagonal: the experts' outputs are fitted on that much noise too, and equal
        experts come back. Layers are the tensors for which the statistics have a Gram matrix.
        """
        if chunk.chunk.name not in next(iter(chunk.statistics.values())).infos:
            return Average().merge(chunk)
        factors: dict[str, NDArray[np.float64]] = chunk.result(self._key())
        matrices = [factors[expert] for expert in chunk.experts]
        return chunk.ops.times_matrices(chunk.weights, matrices, chunk.chunk.row)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """G_k (sum_j G_j)^-1 of every layer and expert.

        Raises:
            MissingLibraryError: SciPy is not installed.
        """
        require("scipy", "regmean")
        layers = next(iter(inputs.statistics.values())).infos
        return [
            Prepass(self._key(), (name,), partial(self._factors, inputs, name), holds_matrices=True)
            for name in inputs.names
            if name in layers
        ]

    def matrix_bytes(
        self,
        infos: Mapping[str, TensorInfo],
        experts: int,
        statistics: Mapping[str, Checkpoint],
    ) -> int:
        """Gram matrices and factors of one layer in float64: 2 K + 4 matrices of the largest."""
        sizes = [
            math.prod(info.shape) * 8
            for checkpoint in statistics.values()
            for info in checkpoint.infos.values()
        ]
        return max(sizes, default=0) * (2 * len(statistics) + 4)

    def check_tensors(self, base: Checkpoint, statistics: Mapping[str, Checkpoint]) -> None:
        """Check that the experts have Gram matrices [in, in] of the same linear layers."""
        layers = {name: expert for expert, grams in statistics.items() for name in grams}
        for name, expert in sorted(layers.items()):
            if name not in base or len(base.infos[name].shape) != 2:
                raise CheckpointError(
                    f"the model statistics of expert {expert} cover {name}, which is not a linear "
                    "layer of the base; gather them again from this expert"
                )
            width = math.prod(base.infos[name].shape[1:])
            for other, grams in statistics.items():
                check_shape(other, grams, name, (width, width))

    def _factors(self, inputs: MethodInputs, name: str) -> Rounds:
        # Takes a tenth of a second, which other methods need not spend.
        from scipy.linalg import lapack

        offdiagonal = inputs.number(self.offdiagonal, name)
        grams = {}
        for expert in inputs.experts:
            gram = np.asarray(inputs.statistics[expert][name], dtype=np.float64)
            if not np.isfinite(gram).all():
                raise not_finite(expert, name)
            diagonal = np.diag(np.diag(gram))
            grams[expert] = offdiagonal * gram + (1 - offdiagonal) * diagonal
        ridge = inputs.number(self.ridge, name) * np.mean(
            [np.diag(gram) for gram in grams.values()]
        )
        for gram in grams.values():
            gram[np.diag_indices_from(gram)] += ridge
        total = sum(grams.values())
        assert isinstance(total, np.ndarray)
        if not (np.diag(total) > 0).all():
            raise _singular(name, 0.0)
        scale = 1 / np.sqrt(np.diag(total))
        total *= scale
        total *= scale[:, None]
        yield from ()
        with one_blas_thread():
            # Not Cholesky: small eigenvalues of a sum stored in float32 may be negative.
            triangles, pivots, info = lapack.dgetrf(total)
            reciprocal = 0.0 if info else lapack.dgecon(triangles, np.linalg.norm(total, 1))[0]
            if not reciprocal > 1 / _SINGULAR:
                raise _singular(name, reciprocal)
            # X = G T^-1 with T = S^-1 R S^-1, R symmetric, solves (X S^-1) R = G S.
            return {
                expert: lapack.dgetrs(triangles, pivots, (gram * scale).T, overwrite_b=True)[0].T
                * scale
                for expert, gram in grams.items()
            }

    def _key(self) -> tuple[str, RateValue, WeightValue]:
        return "factors", self.offdiagonal, self.ridge


def _singular(name: str, reciprocal: float) -> CheckpointError:
    return CheckpointError(
        f"the Gram matrices of {name} sum to a singular matrix (reciprocal condition "
        f"{reciprocal:.1e}); gather them from more examples, or set ridge to 1e-5 or more"
    )
