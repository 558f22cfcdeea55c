"""Racing: candidates are compared on growing parts of the selection split, and the worse drop out.

The parts of a split are nested. Which are compared on which, and how many are kept, follows from
the numbers of candidates and examples alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated

from pydantic import Field

from mergegrid.settings import Settings

FINALISTS = 2
"""At least so many candidates are compared on the whole split."""


@dataclass(frozen=True)
class Heat:
    """One comparison of a race, before the last one on the whole split."""

    sizes: tuple[int, ...]
    """Number of examples of each task."""
    kept: int
    """Number of candidates kept after it."""


class Racing(Settings):
    """Successive halving: all candidates are evaluated on a part of the validation split, the
    better ones on a larger part, and the last ones on the whole split, where one is selected."""

    start: Annotated[float, Field(gt=0, lt=1)] = 0.125
    """Share of the validation split in the first part."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the candidates kept after each part, rounded up, and at least two. Each part is
    larger than the one before by the inverse: twice as large for half of the candidates."""
    examples: Annotated[int, Field(ge=1)] = 32
    """Smallest number of examples of each task in a part."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the order in which examples are taken; an example's place depends on the seed and on
    its texts alone."""

    def heats(self, candidates: int, examples: Sequence[int]) -> list[Heat]:
        """The comparisons before the last one, on the whole split, which all survivors enter.

        There are none where they would save no evaluation: the whole split is evaluated from its
        start, so that scores on it do not depend on a race.

        Args:
            candidates: number of candidates.
            examples: number of examples of each task in the split.

        Example:
            >>> Racing(start=0.25, keep=0.5).heats(8, [400])
            [Heat(sizes=(100,), kept=4), Heat(sizes=(200,), kept=2)]
        """
        heats: list[Heat] = []
        left, share, spent, before = candidates, self.start, 0, 0
        while share < 1 and left > FINALISTS:
            counts = [max(self.examples, _ceil(share * count)) for count in examples]
            sizes = tuple(map(min, counts, examples))
            share /= self.keep
            if sizes == tuple(examples):
                break
            if heats and sizes == heats[-1].sizes:
                # The smallest part again: nothing new to compare on.
                continue
            spent += left * (sum(sizes) - before)
            before, left = sum(sizes), max(FINALISTS, _ceil(left * self.keep))
            heats.append(Heat(sizes, left))
        whole = sum(examples)
        return heats if spent + left * whole < candidates * whole else []


def _ceil(number: float) -> int:
    """Round up, but not for the last bits of a product: 0.1 / (1 / 3) of 1000 is 300."""
    return ceil(round(number, 6))
