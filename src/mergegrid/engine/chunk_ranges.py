"""How tensors are cut into runs, tasks and windows."""

import math
from collections.abc import Iterable, Iterator, Mapping

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.chunks import row_of
from mergegrid.engine.ops.operations import GRAIN

# Elements of a task: what a thread takes at a time.
_TASK = 1 << 20
#: Tensors that are surveyed together hold about this many elements.
WINDOW = 1 << 27
# Whole rows that end with a grain may need runs this long; else a run takes the whole tensor.
_LONGEST = 1 << 22

Span = tuple[str, int, int]
"""Tensor, first element, end."""


def spans(name: str, info: TensorInfo, chunk: int, rowwise: bool) -> Iterator[Span]:
    """Runs of a tensor: of `chunk` elements, more where they must hold whole rows.

    All start at multiples of GRAIN.
    """
    step = run_length(info, chunk, rowwise)
    for start in range(0, info.count, step):
        yield name, start, min(start + step, info.count)


def run_length(info: TensorInfo, chunk: int, rowwise: bool) -> int:
    """Elements of the longest run of a tensor."""
    step = chunk
    if rowwise:
        unit = math.lcm(max(row_of(info.shape), 1), GRAIN)
        step = max(chunk // unit, 1) * unit if unit <= _LONGEST else max(info.count, 1)
    return min(step, max(info.count, 1))


def tasks(
    infos: Mapping[str, TensorInfo],
    names: Iterable[str],
    chunk: int,
    rowwise: bool,
    size: int = _TASK,
) -> Iterator[list[Span]]:
    """Runs of tensors, in order, in bundles of about `size` elements for one thread."""
    bundle: list[Span] = []
    count = 0
    for name in names:
        for span in spans(name, infos[name], chunk, rowwise):
            bundle.append(span)
            count += span[2] - span[1]
            if count >= size:
                yield bundle
                bundle, count = [], 0
    if bundle:
        yield bundle


def windows(infos: Mapping[str, TensorInfo], most: int) -> Iterator[tuple[str, ...]]:
    """Tensors that are surveyed together before they are merged: at most `most` of them."""
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
