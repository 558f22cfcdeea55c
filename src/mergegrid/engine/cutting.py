"""Cutting tensors into chunks, tasks and windows."""

import math
from collections.abc import Iterable, Iterator, Mapping

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.chunks import row_length
from mergegrid.engine.ops.operations import GRAIN

# Elements of a task: what a thread takes at a time.
_TASK = 1 << 20
#: Tensors that go through their pre-passes together hold about this many elements.
WINDOW = 1 << 27
# Whole rows that end with a grain may need chunks this long; beyond, a chunk is the whole tensor.
_LONGEST = 1 << 22

ChunkRange = tuple[str, int, int]
"""Tensor, first element, end."""


def cut_tensor(
    name: str, info: TensorInfo, chunk_size: int, whole_rows: bool
) -> Iterator[ChunkRange]:
    """Chunks of `chunk_size` elements, or more where they must hold whole rows.

    All start at multiples of GRAIN.
    """
    step = chunk_length(info, chunk_size, whole_rows)
    for start in range(0, info.count, step):
        yield name, start, min(start + step, info.count)


def chunk_length(info: TensorInfo, chunk_size: int, whole_rows: bool) -> int:
    """Elements of the longest chunk of a tensor."""
    step = chunk_size
    if whole_rows:
        unit = math.lcm(max(row_length(info.shape), 1), GRAIN)
        step = max(chunk_size // unit, 1) * unit if unit <= _LONGEST else max(info.count, 1)
    return min(step, max(info.count, 1))


def tasks(
    infos: Mapping[str, TensorInfo],
    names: Iterable[str],
    chunk_size: int,
    whole_rows: bool,
    size: int = _TASK,
) -> Iterator[list[ChunkRange]]:
    """Chunks of tensors, in order, in bundles of about `size` elements for one thread."""
    bundle: list[ChunkRange] = []
    count = 0
    for name in names:
        for chunk_range in cut_tensor(name, infos[name], chunk_size, whole_rows):
            bundle.append(chunk_range)
            count += chunk_range[2] - chunk_range[1]
            if count >= size:
                yield bundle
                bundle, count = [], 0
    if bundle:
        yield bundle


def windows(infos: Mapping[str, TensorInfo], most: int) -> Iterator[tuple[str, ...]]:
    """Groups of at most `most` tensors that go through their pre-passes before they are merged."""
    window: list[str] = []
    count = 0
    for name, info in infos.items():
        window.append(name)
        count += info.count
        if count >= WINDOW or len(window) == most:
            yield tuple(window)
            window, count = [], 0
    if window:
        yield tuple(window)
