"""Exact selection by magnitude: which elements are the smallest, of a tensor or of a model.

The threshold is found by counting: two histograms over the bits of float32 magnitudes, which sort
like the magnitudes themselves. So no tensor is sorted and no model is flattened. Where a sample
tells where the threshold lies, one pass is enough; whether it was right is counted, not assumed. Of
elements equal to the threshold, those that come first (by tensor in the given order, then by index)
are kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergegrid.merging.arrays.operations import HIGH_BINS, LOW_BITS, Array
from mergegrid.merging.runs import Run
from mergegrid.merging.surveys import Count, Each, Rounds, Sum

Values = Callable[[Run], Array]
_ALL = 1 << 62
# A sample takes this many elements of each run; fewer elements in all are simply counted.
_SAMPLE = 1 << 15
_WORTH_A_SAMPLE = 1 << 20
# Standard errors within which the threshold is looked for, and how many bins that may take.
_SPREAD = 6.0
_WIDEST = 16
# Bits of no magnitude.
_NONE = 0xFFFFFFFF


@dataclass(frozen=True)
class Cut:
    """What is kept: magnitudes above a threshold, and the first of those equal to it."""

    bits: int
    """Threshold: the bits of a float32 magnitude."""
    names: tuple[str, ...]
    """The tensors that were cut together, in order."""
    place: tuple[int, int]
    """Tensor (its position in `names`) and element from which on equals are dropped."""

    def keep(self, run: Run, values: Array) -> Array:
        """The values of a run that are kept; the others become 0."""
        at = self.names.index(run.name)
        tensor, element = self.place
        boundary = element - run.start if at == tensor else _ALL if at < tensor else 0
        return run.ops.keep_large(values, self.bits, boundary)


def smallest(names: tuple[str, ...], count: int, rate: float, values: Values) -> Rounds:
    """Survey for the cut that drops exactly round(p * n) elements of smallest magnitude.

    Args:
        names: tensors that are cut together.
        count: elements n of all of them.
        rate: share p that is dropped.
        values: what is cut.
    """
    return (yield from _cut(names, count, round(rate * count), values))


def largest(names: tuple[str, ...], count: int, rate: float, values: Values) -> Rounds:
    """Survey for the cut that keeps exactly round(p * n) elements of largest magnitude."""
    return (yield from _cut(names, count, count - round(rate * count), values))


def kth_smallest(count: int, rate: float, values: Values) -> Rounds:
    """Survey for the bits of the int(p * n)-th smallest magnitude; none where int(p * n) is 0."""
    rank = int(rate * count)
    return (yield from _threshold(count, rank, values)).bits if rank else None


@dataclass(frozen=True)
class _Threshold:
    bits: int
    below: int
    """Elements of smaller magnitude."""
    equal: int
    """Elements of this magnitude."""
    runs: list[tuple[str, int, int]] | None
    """How many of these each run has: tensor, first element, number. None: not counted."""


def _cut(names: tuple[str, ...], count: int, drop: int, values: Values) -> Rounds:
    if drop == 0:
        return Cut(0, names, (len(names), 0))
    found: _Threshold = yield from _threshold(count, drop, values)
    bits, budget = found.bits, found.equal - (drop - found.below)
    if budget == 0 or bits == 0:
        # All equals go, or they are zeros, of which it makes no difference.
        return Cut(bits, names, (0, 0))
    runs = found.runs
    if runs is None:
        runs = yield Count(lambda run: run.ops.count_equal(values(run), bits), enough=budget)
    place, budget = _crossing(runs, budget)
    (element,) = yield Each(
        lambda run: run.ops.place_of_equal(values(run), bits, budget - 1), at=place
    )
    return Cut(bits, names, (names.index(place[0]), place[1] + element + 1))


def _crossing(runs: Iterable[tuple[str, int, int]], wanted: int) -> tuple[tuple[str, int], int]:
    """The run (tensor, first element) with the last of the wanted equals, and its rank there."""
    for name, start, number in runs:
        if number >= wanted:
            return (name, start), wanted
        wanted -= number
    raise AssertionError(f"{wanted} equals are missing")


def _threshold(count: int, rank: int, values: Values) -> Rounds:
    """The rank-th smallest magnitude: near a guess from a sample, else from two histograms."""
    found = None
    if count >= _WORTH_A_SAMPLE:
        found = yield from _near_a_guess(count, rank, values)
    return found or (yield from _from_histograms(rank, values))


def _near_a_guess(count: int, rank: int, values: Values) -> Rounds:
    """The threshold from one pass over all elements, if a sample tells well where it lies."""
    high, _ = yield _high(values, sample=_SAMPLE)
    sampled = int(high[:HIGH_BINS].sum())
    share = rank / count
    middle = min(max(round(share * sampled), 1), sampled)
    spread = _SPREAD * (sampled * share * (1 - share)) ** 0.5 + 1
    first, _ = _bucket(high[:HIGH_BINS], max(int(middle - spread), 1))
    last, _ = _bucket(high[:HIGH_BINS], min(int(middle + spread) + 1, sampled))
    if last - first >= _WIDEST:
        return None
    bucket, below = _bucket(high[:HIGH_BINS], middle)
    low_counts, _ = yield Sum(
        1 << LOW_BITS,
        lambda run, counts: run.ops.count_low(values(run), bucket, counts),
        sample=_SAMPLE,
    )
    rest, _ = _bucket(low_counts, middle - below)
    guess = bucket << LOW_BITS | rest
    low, width = first << LOW_BITS, (last - first + 1) << LOW_BITS
    shift = max(width.bit_length() - 1 - LOW_BITS, 0)
    near, runs = yield Sum(
        2 + (width >> shift) + 1,
        lambda run, counts: run.ops.count_near(values(run), low, guess, width, shift, counts),
    )
    below, equal, others = int(near[0]), int(near[1]), near[2:].copy()
    at = (guess - low) >> shift
    others[at] += equal
    if not below < rank <= below + others.sum():
        return None
    bin_, below_in_reach = _bucket(others, rank - below)
    if bin_ == at and others[at] == equal:
        return _Threshold(guess, below + below_in_reach, equal, runs)
    return (
        yield from _in_bin(rank, low + (bin_ << shift), 1 << shift, below + below_in_reach, values)
    )


def _in_bin(rank: int, low: int, width: int, below: int, values: Values) -> Rounds:
    """The threshold among a few neighbouring magnitudes, and where each of them is."""

    def measure(run: Run, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        own = np.zeros(2 + width, np.int64)
        run.ops.count_near(values(run), low, _NONE, width, 0, own)
        counts += own
        return own[2:]

    counts, runs = yield Sum(2 + width, measure)
    place, below_in_bin = _bucket(counts[2:], rank - below)
    equals = [(name, start, int(own[place])) for name, start, own in runs]
    return _Threshold(low + place, below + below_in_bin, int(counts[2 + place]), equals)


def _from_histograms(rank: int, values: Values) -> Rounds:
    """The threshold from two passes over all elements."""
    high, _ = yield _high(values)
    if rank <= high[HIGH_BINS]:
        return _Threshold(0, 0, int(high[HIGH_BINS]), None)
    bucket, below = _bucket(high[:HIGH_BINS], rank)
    low, _ = yield Sum(
        1 << LOW_BITS, lambda run, counts: run.ops.count_low(values(run), bucket, counts)
    )
    rest, below_in_bucket = _bucket(low, rank - below)
    bits = bucket << LOW_BITS | rest
    return _Threshold(bits, below + below_in_bucket, int(low[rest]), None)


def _high(values: Values, sample: int | None = None) -> Sum:
    """Histogram of leading bits, and after it the number of zeros."""
    return Sum(HIGH_BINS + 1, lambda run, counts: run.ops.count_high(values(run), counts), sample)


def _bucket(histogram: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The bin in which the `rank`-th smallest lies, and how many elements lie below it."""
    total = histogram.cumsum()
    # For rank 0 the threshold is the smallest value.
    bucket = int(np.searchsorted(total, max(rank, 1)))
    return bucket, int(total[bucket] - histogram[bucket])
