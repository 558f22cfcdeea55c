"""EMR: one merged delta, and for each expert a mask and a factor (arXiv 2405.17461, section 3)."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, MethodInputs
from mergegrid.engine.ops.operations import GRAIN, Array, Operations
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.errors import ConfigError
from mergegrid.methods.per_expert import PerExpertMethod


class Emr(PerExpertMethod):
    """One merged delta for all, masked and rescaled for the task of one expert (EMR-Merging).

    Source: arXiv 2405.17461, section 3. It makes one model per expert: what they share is the
    merged delta, to which each adds one bit per element and one number.
    """

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"expert", "arithmetic"})

    kind: Literal["emr"] = "emr"
    expert: str | None = None
    """The expert whose model is made; a list makes one of each. A study of encoders leaves it unset
    and scores each task with the model of its expert."""
    arithmetic: Literal["exact", "reference"] = "exact"
    """`reference` takes the factor from means over each tensor, summed over tensors, so that small
    tensors count as much as large ones, as the published code does for 8 tasks."""

    def merge(self, chunk: MergeChunk) -> Array:
        """base + factor_k * mask_k * T for expert k.

        T is the largest of the deltas that have the sign of their sum, element by element; a sum of
        zero counts as negative. mask_k is 1 where the delta of expert k has that sign. factor_k is
        sum |delta_k| / sum |mask_k T| over the whole model, so that the size of the delta returns.
        """
        place = self.place(tuple(chunk.experts))
        factors, overflowing = chunk.result(self._key())
        factor = math.nan if chunk.chunk.name in overflowing else factors[place]
        if factor is None:
            raise ConfigError(
                f"emr has no model for {self.expert}: none of its deltas has the sign of the sum "
                "of all deltas; merge it with other experts"
            )
        agreeing, merged = _merged(chunk)
        masked = chunk.ops.where_nonzero(agreeing[place], merged)
        return chunk.ops.plus(chunk.base, masked, factor)

    def prepasses(self, inputs: MethodInputs) -> Iterable[Prepass]:
        """The factors of all experts, which their models share."""
        yield Prepass(self._key(), inputs.names, partial(self._factors, inputs))

    def _factors(self, inputs: MethodInputs) -> Rounds:
        def sizes(chunk: Chunk) -> tuple[str, NDArray[np.float64]]:
            merge_chunk = inputs.merge_chunk(chunk)
            agreeing, merged = _merged(merge_chunk)
            masked = [chunk.ops.where_nonzero(mask, merged) for mask in agreeing]
            changed, kept = _sizes(chunk.ops, merge_chunk.deltas), _sizes(chunk.ops, masked)
            return chunk.name, np.stack([*changed, *kept])

        by_tensor: dict[str, list[NDArray[np.float64]]] = {}
        for name, rows in (yield PerChunk(sizes)):
            by_tensor.setdefault(name, []).append(rows)
        totals, overflowing = np.zeros(2 * len(inputs.experts)), set()
        for name, parts in by_tensor.items():
            total = np.concatenate(parts, axis=1).sum(axis=1)
            if not np.isfinite(total).all():
                # The engine tells which model holds a NaN or infinity when it merges the tensor.
                overflowing.add(name)
                continue
            totals += total / inputs.infos[name].count if self.arithmetic == "reference" else total
        changed, kept = np.split(totals, 2)
        # An expert that is equal to the base has the base as its model.
        factors = [
            float(before / after) if after else None if before and not overflowing else 1.0
            for before, after in zip(changed, kept, strict=True)
        ]
        return factors, overflowing

    def _key(self) -> tuple[str, str]:
        return "factors", self.arithmetic


def _merged(chunk: MergeChunk) -> tuple[list[Array], Array]:
    """The deltas of each expert that have the sign of the sum, else 0; and the largest of them."""
    ops, deltas = chunk.ops, chunk.deltas
    alone = np.eye(len(deltas)).tolist()
    agreeing = [ops.agreeing_mean(deltas, weights, -1.0) for weights in alone]
    largest, *others = agreeing
    for delta in others:
        largest = ops.where_changed(ops.exceeds(delta, largest, 1.0), largest, delta)
    return agreeing, largest


def _sizes(ops: Operations, arrays: Sequence[Array]) -> list[NDArray[np.float64]]:
    """Sum of the magnitudes of each grain of arrays, in float64."""
    # All are computed in one run, as they have most of their operands in common.
    stored = ops.store(arrays, [DTYPES["float32"]] * len(arrays))
    return [_sums_of_grains(np.abs(values)) for values, _ in stored]


def _sums_of_grains(values: NDArray[np.float32]) -> NDArray[np.float64]:
    starts = range(0, values.size, GRAIN)
    return np.array([values[start : start + GRAIN].sum(dtype=np.float64) for start in starts])
