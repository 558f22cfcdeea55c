"""Merges of whole matrices with any number of threads and any chunks."""

import numpy as np
import pytest

from mergegrid.engine.engine import EngineOptions
from mergegrid.sparsifiers.dare import Dare

SHAPES = {"tall": (1500, 192), "wide": (100, 1700), "square": (300, 300)}


@pytest.fixture(scope="module")
def merge_on(merge):
    """Bytes of the tensors of a merge, by method, number of threads and chunk size."""
    random = np.random.default_rng(4)
    base = {n: random.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    experts = {
        name: {n: w + random.standard_normal(w.shape).astype(np.float32) for n, w in base.items()}
        for name in ("code", "math")
    }

    def run(method, threads, chunk_size):
        options = EngineOptions(threads=threads, chunk_size=chunk_size)
        merged = merge(base, experts, method, Dare(rate=0.3), dtype="bfloat16", options=options)
        return {name: tensor.tobytes() for name, tensor in merged.items()}

    return run
