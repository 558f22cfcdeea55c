"""Arithmetic on chunks: the operations that sparsifiers and methods are written in.

Every array is flat and float32 unless said otherwise. The two implementations, `CpuOperations`
and `TorchOperations`, give the same bits: both do one IEEE operation at a time, in this order.
An array may be an expression, whose numbers are computed on use.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.digests import LEAF
from mergegrid.checkpoints.dtypes import Dtype, Stored

Array = Any
"""A flat float32 array in the type of the implementation."""
MaskKey = tuple[int, int, int, int]
"""Key and upper counter words of the random generator, each below 2^32."""

#: Elements between two sums of a reduction, and unit of every chunk: results do not depend on how
#: long chunks are, as long as they start at multiples of it.
GRAIN = LEAF
#: Magnitudes are counted by their leading bits first, then by the rest.
HIGH_BINS = 1 << 15
LOW_BITS = 16
#: Bits that no magnitude has.
NO_BITS = 0xFFFFFFFF
#: Bits above which there is no magnitude.
LARGEST_BITS = 0x7FFFFFFF


class Operations(Protocol):
    """Operations on arrays; an instance serves one thread at a time.

    Arrays that an operation returns are valid until the next `restart`; NumPy arrays that
    `buffer`, `store` and `values` return, until the next call of one of these.
    """

    def restart(self) -> None:
        """Reuse the memory of all arrays that were returned since the last restart."""

    def buffer(self, count: int, dtype: Dtype) -> Stored:
        """A NumPy array [count] to read stored numbers into."""

    def load(self, stored: Stored, dtype: Dtype) -> Array:
        """The float32 values of stored numbers."""

    def store(
        self, arrays: Sequence[Array], dtypes: Sequence[Dtype]
    ) -> Sequence[tuple[Stored, bool]]:
        """The nearest stored numbers as NumPy arrays, and whether each array is finite.

        No array counts as finite if an array loaded since the last restart and used is not.
        """

    def values(self, array: Array) -> Any:
        """The numbers of an array: a NumPy array on the CPU, a torch tensor elsewhere."""

    def join(self, parts: Iterable[tuple[int, Array]], shape: tuple[int, ...]) -> Array:
        """A tensor of this shape from chunks and the elements at which they start."""

    def subtract(self, left: Array, right: Array) -> Array:
        """left - right."""

    def product(self, left: Array, right: Array) -> Array:
        """left * right."""

    def quotient(self, left: Array, right: Array) -> Array:
        """left / right."""

    def plus_number(self, values: Array, number: float) -> Array:
        """values + number."""

    def divided(self, values: Array, divisor: float) -> Array:
        """values / divisor."""

    def scaled(self, values: Array, factor: float) -> Array:
        """values * factor."""

    def weighted_mean(self, arrays: Sequence[Array], weights: Sequence[float]) -> Array:
        """Sum of weight * array over the sum of weights, rounded once.

        The mean of equal arrays is equal to them.
        """

    def weighted_sum(self, arrays: Sequence[Array], weights: Sequence[float]) -> Array:
        """Sum of weight * array, added in the given order."""

    def plus(self, base: Array, change: Array, factor: float) -> Array:
        """base + factor * change, and the base to the bit where that product is zero."""

    def where_changed(self, change: Array, base: Array, values: Array) -> Array:
        """`values` where `change` is not zero, the base to the bit elsewhere."""

    def random_words(self, key: MaskKey, start: int, count: int) -> Array:
        """Random words of the elements `start` to `start + count`; see `engine.masks`."""

    def thin(self, words: Array, threshold: int, values: Array, factor: float) -> Array:
        """values * factor where the word is below the threshold, else 0."""

    def agreeing_mean(
        self, deltas: Sequence[Array], weights: Sequence[float], undecided: float = 0.0
    ) -> Array:
        """Weighted mean over the non-zero deltas whose sign is that of the sum of all deltas.

        Where the sum is zero, `undecided` stands for it. Where no delta agrees, the mean is 0.
        """

    def elected_sum(
        self, deltas: Sequence[Array], weights: Sequence[float], undecided: float, mean: bool
    ) -> Array:
        """Weighted sum of the non-zero deltas whose sign is that of the weighted sum of all.

        Where that sum is zero, `undecided` stands for it. With `mean`, the result is divided by the
        sum of the weights of the deltas in it, if there are any.
        """

    def net_sign(self, values: Array) -> int:
        """Number of positive values minus number of negative values."""

    def magnitudes(self, values: Array) -> NDArray[np.uint32]:
        """The bits of magnitudes, which sort like them: a new NumPy array."""

    def count_high(self, values: Array, counts: NDArray[np.int64]) -> None:
        """Add to the histogram of leading bits of magnitudes; its last entry [HIGH_BINS]: zeros."""

    def count_equal(self, values: Array, bits: int) -> int:
        """Number of magnitudes with exactly these bits."""

    def count_near(
        self,
        values: Array,
        low: int,
        width: int,
        shift: int,
        guesses: Sequence[int],
        counts: NDArray[np.int64],
    ) -> None:
        """Count magnitudes in a range, all given by their bits.

        Adds to counts [1 + GUESSES + ceil(width / 2^shift)]: those below `low`; those equal to each
        of at most GUESSES distinct guesses in the range; and in bins of 2^shift the others in
        low + [0, width).
        """

    def list_near(
        self, values: Array, low: int, width: int, guesses: Sequence[int], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Count magnitudes in a range, all given by their bits, and list those that are no guess.

        Returns:
            Counts [2 + GUESSES] of those below `low`, those equal to each of at most GUESSES
            distinct guesses in the range, and the others in low + [0, width); and of the others
            the first `most`, in order.
        """

    def place_of_equal(self, values: Array, bits: int, rank: int) -> int:
        """Index of the magnitude with these bits that has `rank` such before it.

        Raises IndexError if there is none.
        """

    def keep_large(self, values: Array, bits: int, boundary: int) -> Array:
        """The values of magnitude above `bits`, or equal and before index `boundary`; else 0."""

    def where_nonzero(self, mask: Array, values: Array) -> Array:
        """The values where the mask, an array of numbers, is not zero; else 0."""

    def exceeds(self, left: Array, right: Array, factor: float) -> Array:
        """1 where |left| > factor * |right|, else 0; the product is rounded to float32."""

    def thin_by_rank(self, words: Array, values: Array, row: int, low: float, high: float) -> Array:
        """Drop the smallest magnitude of each row with probability `high`, the largest with `low`.

        Between them the probability falls with the rank; what is kept is divided by its own keep
        probability. Equal magnitudes rank by index; a row of one element is dropped with the mean.
        """

    def keep_of_blocks(self, values: Array, count: int, block: int) -> Array:
        """The `count` values of largest magnitude in every block of elements, else 0.

        Equal magnitudes rank by index; the last block may be shorter.
        """

    def times_matrices(
        self, arrays: Sequence[Array], matrices: Sequence[NDArray[np.float64]], row: int
    ) -> Array:
        """Sum of the products of arrays, as rows of length `row`, with matrices [row, row]."""

    def dots(self, left: Array, right: Array) -> NDArray[np.float64]:
        """Inner product of each grain, in float64 and in `LANES` sums: [ceil(n / GRAIN)]."""

    def dots_of(self, pairs: Sequence[tuple[Array, Array]]) -> NDArray[np.float64]:
        """The same for several pairs, computed together: [pairs, ceil(n / GRAIN)]."""


def check_start(start: int) -> None:
    """Check that random words can start at an element.

    Raises:
        ValueError: they cannot, because four of them are drawn together.
    """
    if start < 0 or start % 4:
        raise ValueError(f"a chunk starts at element {start}; start at a multiple of four")
