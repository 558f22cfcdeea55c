"""RegMean: linear layers that fit every expert's outputs best (arXiv 2212.09849, section 3)."""

from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Rounds, Survey
from mergegrid.errors import CheckpointError
from mergegrid.methods.average import average
from mergegrid.methods.method import MergeRun, Subject, not_finite
from mergegrid.recipes.methods import Average, RegMean

# Condition number (of the 1-norm, estimated) of the sum, scaled to a diagonal of ones. Statistics
# are stored in float32, whose rounding lifts the eigenvalues of a singular sum from 0 to about
# 1e-7: such sums of 64 to 768 columns are beyond it, those of layers of MiniLM from enough texts at
# about 1e9 at most. Unscaled, columns of other sizes, which do no harm, hide the difference.
_SINGULAR = 1e10


def regmean(spec: RegMean, run: MergeRun) -> Array:
    """W = (sum_k W_k G_k) (sum_k G_k)^-1 for linear layers [out, in]; the mean for all else.

    G_k [in, in] is the Gram matrix of the layer's inputs under expert k, its off-diagonal entries
    times `offdiagonal`, with `ridge` / K times the mean of the diagonal of the sum added to the
    diagonal: the experts' outputs are fitted on that much noise too, and equal experts come back.
    A layer is a tensor of which the statistics have a Gram matrix.
    """
    if run.run.name not in next(iter(run.statistics.values())).infos:
        return average(Average(), run)
    factors: dict[str, NDArray[np.float64]] = run.answer(_key(spec))
    return run.ops.times_matrices(
        run.weights, [factors[expert] for expert in run.experts], run.run.row
    )


def factors(spec: RegMean, subject: Subject) -> Iterable[Survey]:
    """G_k (sum_j G_j)^-1 of every layer and expert."""
    layers = next(iter(subject.statistics.values())).infos
    return [
        Survey(_key(spec), (name,), partial(_factors, spec, subject, name))
        for name in subject.names
        if name in layers
    ]


def _factors(spec: RegMean, subject: Subject, name: str) -> Rounds:
    # A tenth of a second, which other methods need not spend.
    from scipy.linalg import lapack

    grams = {}
    for expert in subject.experts:
        gram = np.asarray(subject.statistics[expert][name], dtype=np.float64)
        if not np.isfinite(gram).all():
            raise not_finite(expert, name)
        diagonal = np.diag(np.diag(gram))
        grams[expert] = spec.offdiagonal * gram + (1 - spec.offdiagonal) * diagonal
    ridge = spec.ridge * np.mean([np.diag(gram) for gram in grams.values()])
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
        # Not Cholesky: of a sum that was stored in float32, small eigenvalues may be below 0.
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


def _singular(name: str, reciprocal: float) -> CheckpointError:
    return CheckpointError(
        f"the Gram matrices of {name} sum to a singular matrix (reciprocal condition "
        f"{reciprocal:.1e}); gather them from more examples, or set ridge, to 1e-5 or more"
    )


def _key(spec: RegMean) -> tuple[str, float, float]:
    return "factors", spec.offdiagonal, spec.ridge
