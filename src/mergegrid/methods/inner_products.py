"""Inner products between the experts of a recipe, tensor by tensor, for methods about angles."""

from collections.abc import Iterable
from functools import partial
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.method import MergeChunk, MethodInputs, grain_sums
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import PerChunk, Prepass, Rounds

Vectors = Literal["weights", "deltas"]
"""What is taken as a vector, tensor by tensor: the experts' parameters, or their deltas."""


def vectors_of(chunk: MergeChunk, vectors: Vectors) -> list[Array]:
    """Elements of the experts or of their deltas."""
    return chunk.weights if vectors == "weights" else chunk.deltas


def inner_products(inputs: MethodInputs, vectors: Vectors) -> Iterable[Prepass]:
    """Pre-passes with the inner products [K, K] of the experts in every tensor, in float64."""
    return [
        Prepass(key(vectors), (name,), partial(_products, inputs, vectors)) for name in inputs.names
    ]


def key(vectors: Vectors) -> tuple[str, Vectors]:
    """Key of the inner products."""
    return "inner products", vectors


def _products(inputs: MethodInputs, vectors: Vectors) -> Rounds:
    count = len(inputs.experts)
    pairs = list(combinations_with_replacement(range(count), 2))

    def products(chunk: Chunk) -> Array:
        arrays = vectors_of(inputs.merge_chunk(chunk), vectors)
        return chunk.ops.dots_of([(arrays[i], arrays[j]) for i, j in pairs])

    sums = grain_sums((yield PerChunk(products)), len(pairs))
    matrix: NDArray[np.float64] = np.empty((count, count))
    for (i, j), value in zip(pairs, sums, strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix
