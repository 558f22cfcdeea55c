"""Exact selection by magnitude: which elements are the smallest, of a tensor or of a model.

The bits of float32 magnitudes sort like the magnitudes themselves, so the threshold is found by
counting: no large tensor is sorted and no model is flattened. A sample tells near which magnitude
the threshold lies; one pass over all elements counts what is below and lists what is near. Where
that is too much it is counted in bins first, and where the sample was wrong, which is counted and
not assumed, two histograms find the threshold. Of elements equal to the threshold, those that come
first (by tensor in the given order, then by index) are kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.chunks import Run
from mergegrid.engine.ops.operations import HIGH_BINS, LOW_BITS, Array
from mergegrid.engine.prepass import SAMPLED_RUN, Count, Each, Rounds, Sum
from mergegrid.kernels.opcodes import GUESSES

Values = Callable[[Run], Array]
Counts = NDArray[np.int64]
_ALL = 1 << 62
# So many magnitudes, no more memory than a histogram, are sorted; of more, some are a sample, from
# all parts of the tensors.
_FEW = 1 << 17
_FEWEST_OF_EACH, _MOST_OF_EACH = 1 << 5, 1 << 13
# Magnitudes of a sample, about.
_SAMPLED = 1 << 20
#: At most so many magnitudes are listed, and at most one of so many.
LISTED, LISTED_FROM = 1 << 21, 1 << 4
# Standard errors within which the threshold is looked for.
_SPREAD = 6.0
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
    """Magnitudes near the threshold; some of them, the guesses, are counted apart."""

    low: int
    width: int
    guesses: tuple[int, ...]
    others: float = 0.0
    """Share of all magnitudes that is expected in the range and no guess."""

    @property
    def shift(self) -> int:
        """Bins are of 2^shift magnitudes."""
        return max((self.width - 1).bit_length() - _BIN_BITS, 0)


def _near_a_guess(count: int, rank: int, values: Values) -> Rounds:
    """The threshold from one pass over all elements, if a sample tells well where it lies."""
    of_each = min(max(SAMPLED_RUN * _SAMPLED // count, _FEWEST_OF_EACH), _MOST_OF_EACH)
    # Runs of whole rows are longer than was asked for. Nothing holds a sample on to the next round.
    near = _likely(
        (yield Each(lambda run: run.ops.magnitudes(values(run))[:of_each].copy(), sample=of_each)),
        rank / count,
    )
    most = min(count // LISTED_FROM, LISTED)
    if near.others * count <= 0.8 * most:
        return (yield from _listed(near, most, rank, values))
    found = yield from _binned(near, rank, values)
    if isinstance(found, _Range):
        return (yield from _listed(found, most, rank, values))
    return found


def _likely(drawn: Sequence[NDArray[np.uint32]], share: float) -> _Range:
    """Where a sample has the magnitude below which this share lies."""
    sample = np.concatenate(drawn)
    spread = _SPREAD * (sample.size * share * (1 - share)) ** 0.5 + 1
    least = max(int(share * sample.size - spread), 0)
    most = min(int(share * sample.size + spread) + 1, sample.size - 1)
    sample.partition((least, most))
    likely = sample[least : most + 1]
    low, high = int(likely[0]), int(likely[-1])
    distinct, numbers = np.unique(likely, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    others = numbers[order[GUESSES:]].sum() / sample.size
    return _Range(low, high - low + 1, tuple(map(int, distinct[order[:GUESSES]])), others)


def _listed(near: _Range, most: int, rank: int, values: Values) -> Rounds:
    """The threshold, if it lies in a range with no more than `most` magnitudes besides guesses."""
    room, counting = most, Lock()

    def measure(run: Run) -> tuple[str, int, Counts, NDArray[np.uint32]]:
        nonlocal room
        counts, others = run.ops.list_near(
            values(run), near.low, near.width, near.guesses, max(min(room, run.count), 0)
        )
        # If there are too many it does not matter which are listed. Runs that threads measure at
        # the same time may pass the limit by what each lists.
        listed = others.size
        with counting:
            room -= listed
        return run.name, run.start, counts, others

    runs = yield Each(measure)
    below, *equal, number = map(int, np.sum([counts for _, _, counts, _ in runs], axis=0))
    others = np.concatenate([own for *_, own in runs])
    if others.size < number or not below < rank <= below + sum(equal) + number:
        return None
    others.sort()
    # Guesses and others are distinct: between them stand the guesses that are passed.
    passed = below
    for guess, of_guess in sorted(zip(near.guesses, equal, strict=False)):
        before = passed + int(others.searchsorted(np.uint32(guess)))
        if before < rank <= before + of_guess:
            place = 1 + near.guesses.index(guess)
            equals = [(name, start, int(counts[place])) for name, start, counts, _ in runs]
            return _Threshold(guess, before, of_guess, equals)
        if before < rank:
            passed += of_guess
    bits = others[rank - passed - 1]
    start, end = (int(others.searchsorted(bits, side)) for side in ("left", "right"))
    equals = [(name, first, int(np.count_nonzero(own == bits))) for name, first, _, own in runs]
    return _Threshold(int(bits), passed + start, end - start, equals)


def _binned(near: _Range, rank: int, values: Values) -> Rounds:
    """The threshold if it is a guess, else a narrower range in which it lies."""
    # Models stored in 16 bits differ by few distinct numbers, whose last bits are zero: they are
    # where bins start.
    low = near.low >> near.shift << near.shift
    width = near.low + near.width - low
    first = 1 + GUESSES

    def measure(run: Run, counts: Counts) -> Counts:
        known = counts[1:first].copy()
        run.ops.count_near(values(run), low, width, near.shift, near.guesses, counts)
        return counts[1:first] - known

    counts, runs = yield Sum(first + ((width - 1) >> near.shift) + 1, measure)
    bins, below = counts[first:].copy(), int(counts[0])
    equal = dict(zip(near.guesses, map(int, counts[1:]), strict=False))
    for guess, number in equal.items():
        bins[(guess - low) >> near.shift] += number
    if not below < rank <= below + bins.sum():
        return None
    place, before = _bucket(bins, rank - below)
    below += before
    start = low + (place << near.shift)
    # What else is in a bin that starts with a guess is larger.
    if rank <= below + equal.get(start, 0):
        guess = near.guesses.index(start)
        equals = [(name, of, int(own[guess])) for name, of, own in runs]
        return _Threshold(start, below, equal[start], equals)
    within = [guess for guess in near.guesses if start < guess < start + (1 << near.shift)]
    return _Range(start, 1 << near.shift, (start, *within[: GUESSES - 1]))


def _from_histograms(rank: int, values: Values) -> Rounds:
    """The threshold from two passes over all elements."""
    high, _ = yield Sum(HIGH_BINS + 1, lambda run, counts: run.ops.count_high(values(run), counts))
    if rank <= high[HIGH_BINS]:
        return _Threshold(0, 0, int(high[HIGH_BINS]), None)
    bucket, _ = _bucket(high[:HIGH_BINS], rank)
    low, width = bucket << LOW_BITS, 1 << LOW_BITS
    counts, _ = yield Sum(
        1 + GUESSES + width,
        lambda run, counts: run.ops.count_near(values(run), low, width, 0, (), counts),
    )
    bins = counts[1 + GUESSES :]
    place, before = _bucket(bins, rank - int(counts[0]))
    return _Threshold(low + place, int(counts[0]) + before, int(bins[place]), None)


def _bucket(histogram: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The bin in which the `rank`-th smallest lies, and how many elements lie below it."""
    total = histogram.cumsum()
    # For rank 0 the threshold is the smallest value.
    bucket = int(np.searchsorted(total, max(rank, 1)))
    return bucket, int(total[bucket] - histogram[bucket])
