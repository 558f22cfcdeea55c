"""Surveys: what must be known about whole tensors before a run of them can be merged.

A survey is a generator. It yields rounds; a round measures every run of its tensors, and its
outcome is sent back. What the generator returns is the answer:

    def largest(values):
        maxima = yield Each(lambda run: abs(values(run)).max())
        return max(maxima)

Rounds are streamed: of a run at most a histogram is kept, or a list of few of its elements.
"""

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.chunks import Run

#: Elements of a run of which a sample is taken.
SAMPLED_RUN = 1 << 20


@dataclass(frozen=True)
class Sum:
    """A round whose runs add to integer counts, in any order.

    Its outcome is the sum, and what each run returned: (tensor, first element, value), in order.
    """

    length: int
    measure: Callable[[Run, NDArray[np.int64]], Any]


@dataclass(frozen=True)
class Each:
    """A round whose outcome lists one value per run, in order."""

    measure: Callable[[Run], Any]
    at: tuple[str, int] | None = None
    """Only the run of this tensor that starts at this element."""
    sample: int | None = None
    """Only the first so many elements of each `SAMPLED_RUN`, and as large a share of shorter runs,
    where a guess is all that is wanted and runs need not hold whole rows."""


@dataclass(frozen=True)
class Count:
    """A round that counts until there are enough.

    Its outcome lists (tensor, first element, count) for each run, in order, as far as it went.
    """

    measure: Callable[[Run], int]
    enough: int


Round = Sum | Each | Count
Rounds = Generator[Round, Any, Any]


@dataclass(frozen=True)
class Survey:
    """One question about some tensors."""

    key: Hashable
    """What is asked: equal keys have equal answers."""
    names: tuple[str, ...]
    """The tensors it is about, in order."""
    rounds: Callable[[], Rounds]
    """Starts the generator."""
    after: bool = False
    """Whether it needs the answers of the surveys listed before it."""
