"""The low-rank factors of one tensor's delta, as an adapter stores them."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mergegrid.checkpoints.adapters.writer import factor_infos, rounded, stored_factors
from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Dtype, Stored
from mergegrid.checkpoints.layer_kinds import LayerKind
from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.chunks import BASE, Chunk, OnRead
from mergegrid.engine.cutting import cut_tensor
from mergegrid.engine.engine import CHUNK_SIZE
from mergegrid.engine.ops.operations import Operations
from mergegrid.errors import CheckpointError
from mergegrid.extraction.low_rank import (
    Doubles,
    RankRule,
    factorize,
    normal_numbers,
    sketch_width,
    squared_error,
)
from mergegrid.extraction.report import TensorExtraction

#: The fine-tuned model among the models of a chunk, beside the base.
MODEL = "model"


@dataclass(frozen=True)
class Factored:
    """The outcome for one tensor."""

    row: TensorExtraction
    """Its row of the report."""
    factors: tuple[tuple[str, TensorInfo, Stored], ...] = ()
    """Names, infos and flat elements of A and B."""


class Factorizer:
    """Factorizes deltas, one tensor at a time.

    Args:
        models: the base and the model.
        layers: kind of layer by tensor.
        rule: how many directions are kept.
        dtype: dtype of the factors.
        seed: seed of the random matrices.
    """

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        layers: Mapping[str, LayerKind],
        rule: RankRule,
        dtype: Dtype,
        seed: int,
    ) -> None:
        self._models, self._layers = models, layers
        self._rule, self._dtype, self._seed = rule, dtype, seed

    def infos(self, name: str, rank: int) -> tuple[tuple[str, TensorInfo], tuple[str, TensorInfo]]:
        """Names and infos of the factors A and B of a matrix."""
        rows, columns = self._models[BASE].infos[name].shape
        module, rank = name.removesuffix(".weight"), min(rank, rows, columns)
        return factor_infos(module, self._layers[name], (rows, columns), rank, self._dtype)

    def factor(self, ops: Operations, name: str, adapted: bool, on_read: OnRead) -> Factored:
        """Factorize the delta of a matrix that may be adapted; measure that of any other tensor.

        Args:
            ops: arithmetic of the thread.
            name: the tensor.
            adapted: whether it may be adapted.
            on_read: called once with everything that is read.

        Raises:
            CheckpointError: a model cannot be read, or the delta is not finite.
        """
        begin = time.monotonic()
        layer, shape = self._layers[name], self._models[BASE].infos[name].shape
        squared_norm = 0.0
        for chunk in self._chunks(ops, name, on_read):
            delta = chunk.delta(MODEL)
            squared_norm += float(ops.dots(delta, delta).sum())
        if not np.isfinite(squared_norm):
            raise CheckpointError(
                f"{name} has deltas that are not finite; base or model is damaged: download or "
                "train it again"
            )
        if not adapted or squared_norm == 0:
            return Factored(
                TensorExtraction(name, layer, shape, 0, 0.0, 1.0, squared_norm, _since(begin))
            )
        rows, columns = shape

        def blocks() -> Iterator[tuple[int, Doubles]]:
            for chunk in self._chunks(ops, name):
                values = ops.values(chunk.delta(MODEL))
                yield chunk.start // columns, values.astype(np.float64).reshape(-1, columns)

        with one_blas_thread():
            width = sketch_width(self._rule, (rows, columns))
            random = normal_numbers(ops, self._seed, name, (columns, width))
            factors = factorize(blocks, (rows, columns), self._rule, squared_norm, random)
            left, left_values = rounded(factors.left, self._dtype)
            right, right_values = rounded(factors.right, self._dtype)
            error = squared_error(blocks, left_values, right_values) / squared_norm
        rank = len(right_values)
        one, two = self.infos(name, rank)
        a, b = stored_factors(left, right, layer, rank)
        return Factored(
            TensorExtraction(
                *(name, layer, shape, rank, factors.energy),
                *(error**0.5, squared_norm, _since(begin)),
            ),
            ((*one, a), (*two, b)),
        )

    def _chunks(self, ops: Operations, name: str, on_read: OnRead | None = None) -> Iterator[Chunk]:
        """Chunks of whole rows of a tensor, which depend on its shape alone."""
        for _, start, stop in cut_tensor(
            name, self._models[BASE].infos[name], CHUNK_SIZE, whole_rows=True
        ):
            ops.restart()
            yield Chunk(self._models, name, start, stop, ops, on_read)


def _since(begin: float) -> float:
    return time.monotonic() - begin
