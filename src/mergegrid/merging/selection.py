"""Exact selection by magnitude: which elements are the smallest, of a tensor or of a model.

The bits of float32 magnitudes sort like the magnitudes themselves, so the threshold is found by
counting: no large tensor is sorted and no model is flattened. A sample tells where the threshold
lies, and one pass over all elements which it is; whether the sample was right is counted, not
assumed, and two histograms find what it missed. Of elements equal to the threshold, those that come
first (by tensor in the given order, then by index) are kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergegrid.loops import GUESSES
from mergegrid.merging.arrays.operations import HIGH_BINS, LOW_BITS, Array
from mergegrid.merging.runs import Run
from mergegrid.merging.surveys import SAMPLED_RUN, Count, Each, Rounds, Sum

Values = Callable[[Run], Array]
Counts = NDArray[np.int64]
_ALL = 1 << 62
# So many magnitudes, no more memory than a histogram, are sorted; of more, some are a sample, from
# all parts of the tensors.
_FEW = 1 << 17
_FEWEST_OF_EACH, _MOST_OF_EACH = 1 << 5, 1 << 13
#: Magnitudes of a sample: about so many, and at most one of `SAMPLED_FROM`.
SAMPLED = 1 << 20
SAMPLED_FROM = SAMPLED_RUN // _MOST_OF_EACH
# Standard errors within which the threshold is looked for, and how many magnitudes that may be.
_SPREAD = 6.0
_WIDEST = 1 << 20
# A range near the threshold is counted in about 2^13 bins.
_BIN_BITS = 13


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
    """The rank-th smallest magnitude: of few by sorting, else near a guess or by histograms."""
    if count <= _FEW:
        return (yield from _sorted(rank, values))
    found = yield from _near_a_guess(count, rank, values)
    return found or (yield from _from_histograms(rank, values))


def _sorted(rank: int, values: Values) -> Rounds:
    """The threshold of a few magnitudes."""
    runs = yield Each(lambda run: (run.name, run.start, run.ops.magnitudes(values(run))))
    magnitudes = np.sort(np.concatenate([own for _, _, own in runs]))
    bits = magnitudes[rank - 1]
    below, end = np.searchsorted(magnitudes, bits), np.searchsorted(magnitudes, bits, "right")
    equals = [(name, start, int(np.count_nonzero(own == bits))) for name, start, own in runs]
    return _Threshold(int(bits), int(below), int(end - below), equals)


@dataclass(frozen=True)
class _Range:
    """Magnitudes near the threshold: counted in bins of 2^shift, and guesses apart."""

    low: int
    width: int
    shift: int = 0
    guesses: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Length of the counts: below the range, equal to each guess, then the bins."""
        return 1 + GUESSES + ((self.width - 1) >> self.shift) + 1

    def add(self, run: Run, values: Values, counts: Counts) -> None:
        """Add a run to the counts."""
        run.ops.count_near(values(run), self.low, self.width, self.shift, self.guesses, counts)


def _near_a_guess(count: int, rank: int, values: Values) -> Rounds:
    """The threshold from one pass over all elements, if a sample tells well where it lies."""
    of_each = min(max(SAMPLED_RUN * SAMPLED // count, _FEWEST_OF_EACH), _MOST_OF_EACH)
    # Runs of whole rows are longer than was asked for. Nothing holds a sample on to the next round.
    near = _likely(
        (yield Each(lambda run: run.ops.magnitudes(values(run))[:of_each].copy(), sample=of_each)),
        rank / count,
    )
    if near is None:
        return None

    def measure(run: Run, counts: Counts) -> Counts:
        known = counts[1 : 1 + GUESSES].copy()
        near.add(run, values, counts)
        return counts[1 : 1 + GUESSES] - known

    counts, runs = yield Sum(near.length, measure)
    return (yield from _found(near, counts, runs, rank, values))


def _likely(drawn: Sequence[NDArray[np.uint32]], share: float) -> _Range | None:
    """Where a sample has the magnitude below which this share lies, if that is few numbers."""
    sample = np.concatenate(drawn)
    spread = _SPREAD * (sample.size * share * (1 - share)) ** 0.5 + 1
    least = max(int(share * sample.size - spread), 0)
    most = min(int(share * sample.size + spread) + 1, sample.size - 1)
    sample.partition((least, most))
    likely = sample[least : most + 1]
    low, high = int(likely[0]), int(likely[-1])
    if high - low >= _WIDEST:
        return None
    shift = max((high - low).bit_length() - _BIN_BITS, 0)
    # Models stored in 16 bits differ by few distinct numbers, whose last bits are zero: they are
    # where bins start.
    low = low >> shift << shift
    distinct, numbers = np.unique(likely, return_counts=True)
    commonest = distinct[np.argsort(-numbers, kind="stable")[:GUESSES]]
    return _Range(low, high - low + 1, shift, tuple(map(int, commonest)))


def _found(
    near: _Range, counts: Counts, runs: list[tuple[str, int, Counts]], rank: int, values: Values
) -> Rounds:
    """The threshold, if it lies in a range that was counted."""
    bins = counts[1 + GUESSES :].copy()
    equal = dict(zip(near.guesses, map(int, counts[1:]), strict=False))
    for guess, number in equal.items():
        bins[(guess - near.low) >> near.shift] += number
    below = int(counts[0])
    if not below < rank <= below + bins.sum():
        return None
    place, before = _bucket(bins, rank - below)
    below += before
    start = near.low + (place << near.shift)
    # What else is in a bin that starts with a guess is larger.
    if rank <= below + equal.get(start, 0):
        number = near.guesses.index(start)
        of_runs = [(name, first, int(own[number])) for name, first, own in runs]
        return _Threshold(start, below, equal[start], of_runs)
    return (yield from _in_range(_Range(start, 1 << near.shift), rank, values))


def _in_range(fine: _Range, rank: int, values: Values) -> Rounds:
    """The threshold among a few neighbouring magnitudes, and where each of them is."""

    def measure(run: Run, counts: Counts) -> Counts:
        own = np.zeros(fine.length, np.int64)
        fine.add(run, values, own)
        counts += own
        return own[1 + GUESSES :]

    counts, runs = yield Sum(fine.length, measure)
    bins = counts[1 + GUESSES :]
    place, before = _bucket(bins, rank - int(counts[0]))
    equals = [(name, start, int(own[place])) for name, start, own in runs]
    return _Threshold(fine.low + place, int(counts[0]) + before, int(bins[place]), equals)


def _from_histograms(rank: int, values: Values) -> Rounds:
    """The threshold from two passes over all elements."""
    high, _ = yield Sum(HIGH_BINS + 1, lambda run, counts: run.ops.count_high(values(run), counts))
    if rank <= high[HIGH_BINS]:
        return _Threshold(0, 0, int(high[HIGH_BINS]), None)
    bucket, _ = _bucket(high[:HIGH_BINS], rank)
    fine = _Range(bucket << LOW_BITS, 1 << LOW_BITS)
    counts, _ = yield Sum(fine.length, lambda run, counts: fine.add(run, values, counts))
    bins = counts[1 + GUESSES :]
    place, before = _bucket(bins, rank - int(counts[0]))
    return _Threshold(fine.low + place, int(counts[0]) + before, int(bins[place]), None)


def _bucket(histogram: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The bin in which the `rank`-th smallest lies, and how many elements lie below it."""
    total = histogram.cumsum()
    # For rank 0 the threshold is the smallest value.
    bucket = int(np.searchsorted(total, max(rank, 1)))
    return bucket, int(total[bucket] - histogram[bucket])
