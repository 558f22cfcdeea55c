"""Norm limit: large deltas are scaled down, tensor by tensor."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds
from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, Sparsifier, rescaled


class NormLimit(Sparsifier):
    """Scale the deltas of a tensor down to a largest root mean square."""

    kind: Literal["norm_limit"] = "norm_limit"
    limit: Annotated[float, Field(gt=0)] = 0.001
    """Largest root mean square of the deltas of a tensor."""

    def apply(self, expert: ExpertChunk) -> SparsifiedChunk:
        """delta * min(1, limit / root mean square of the tensor's deltas)."""
        size: float = expert.result(self.key("root mean square", expert.expert), expert.chunk.name)
        factor = self.limit / size if size > self.limit else 1.0
        return rescaled(expert, expert.ops.scaled(expert.delta, factor))

    def prepasses(self, expert: str, infos: Mapping[str, TensorInfo]) -> Iterable[Prepass]:
        """The root mean square of the deltas of every tensor."""
        for name, info in infos.items():
            rounds = partial(_root_mean_square, expert, info.count)
            yield Prepass(self.key("root mean square", expert), (name,), rounds)


def _root_mean_square(expert: str, count: int) -> Rounds:
    def squares(chunk: Chunk) -> Array:
        delta = chunk.delta(expert)
        return chunk.ops.dots(delta, delta).sum()

    return float(np.sqrt(sum((yield PerChunk(squares))) / max(count, 1)))
