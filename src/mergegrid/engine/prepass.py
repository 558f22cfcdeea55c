"""Pre-passes: computing what a recipe must know of whole tensors before it merges their chunks.

A pre-pass is a generator. It yields rounds; the engine measures every chunk of the tensors and
sends back the outcome. The generator returns the result:

    def largest(values):
        maxima = yield PerChunk(lambda chunk: abs(values(chunk)).max())
        return max(maxima)

Rounds are streamed: the most that is kept of a chunk is a histogram or a short list of elements.
"""

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.chunks import Chunk

#: Elements of a chunk that a sample is taken from.
SAMPLE_CHUNK = 1 << 20
#: Elements of a chunk of a `Fold`, about: enough rows for products of matrices to be fast.
FOLD_CHUNK = 1 << 21


@dataclass(frozen=True)
class Histogram:
    """A round in which chunks add to integer counts, in any order.

    Outcome: the sums, and the return value of each chunk: (tensor, first element, value), in order.
    """

    length: int
    measure: Callable[[Chunk, NDArray[np.int64]], Any]


@dataclass(frozen=True)
class PerChunk:
    """A round with one value per chunk; outcome: their list, in order."""

    measure: Callable[[Chunk], Any]
    at: tuple[str, int] | None = None
    """Measure only the chunk of this tensor that starts at this element."""
    sample: int | None = None
    """Measure only the first elements of each chunk: so many of each `SAMPLE_CHUNK`, and the same
    share of shorter chunks. Chunks of a sample need not hold whole rows."""


@dataclass(frozen=True)
class CountUntil:
    """A round that stops counting when there are enough.

    Outcome: (tensor, first element, count) of each chunk, in order, as far as it went.
    """

    measure: Callable[[Chunk], int]
    enough: int


@dataclass(frozen=True)
class Fold:
    """A round in which one thread goes through a whole tensor, chunk by chunk, in order.

    The chunks hold whole rows and have a fixed length, so that sums in floating point depend on
    neither threads nor the engine's chunks. Outcome: the state of each tensor, in order.
    """

    start: Callable[[], Any]
    """Creates the state."""
    add: Callable[[Any, Chunk], None]
    """Adds a chunk to the state."""


Round = Histogram | PerChunk | CountUntil | Fold
Rounds = Generator[Round, Any, Any]


@dataclass(frozen=True)
class Prepass:
    """One computation over some tensors."""

    key: Hashable
    """Name of the result: pre-passes with equal keys have equal results."""
    names: tuple[str, ...]
    """The tensors it covers, in order."""
    rounds: Callable[[], Rounds]
    """Starts the generator."""
    after: bool = False
    """Whether it needs the results of the pre-passes listed before it."""
    holds_matrices: bool = False
    """Whether it keeps whole matrices: no more tensors than threads then go through it together."""
