"""Exact selection by magnitude: the k smallest elements of a tensor or of a whole model.

The bits of float32 magnitudes sort like the magnitudes, so the k-th smallest is found by counting;
no large tensor is sorted and no model is flattened. With n elements and rank k:

1. n small: all magnitudes are sorted.
2. Otherwise a sample gives a range [low, low + width) in which the k-th smallest most likely lies,
   and the values ("guesses") that are most frequent in it. Models stored in 16 bits have deltas of
   few distinct values, so guesses absorb most of the range.
3. One pass counts the elements below the range and those equal to each guess, and lists the others
   in the range, if they are expected to be few. If they are too many, the pass counts them in bins
   instead, and a further pass lists the one bin that holds the k-th smallest.
4. The counts show whether the range really holds it. If not, two passes of histograms find it: of
   the leading 15 bits, then of the last 16.

Of elements equal to the threshold, the first (by tensor in the given order, then by index) are
kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.chunks import Chunk
from mergegrid.engine.ops.operations import HIGH_BINS, LOW_BITS, Array
from mergegrid.engine.prepass import SAMPLE_CHUNK, CountUntil, Histogram, PerChunk, Rounds
from mergegrid.kernels.opcodes import GUESSES

Values = Callable[[Chunk], Array]
Counts = NDArray[np.int64]
_WHOLE_CHUNK = 1 << 62
# Up to so many magnitudes, the memory of a histogram, are sorted; of more, a sample is drawn from
# all parts of the tensors.
_FEW = 1 << 17
_SMALLEST_SAMPLE, _LARGEST_SAMPLE = 1 << 5, 1 << 13
# Magnitudes of all samples together, about.
_SAMPLED = 1 << 20
#: Magnitudes are listed up to this number, and up to one in so many of all.
LISTED, LISTED_FROM = 1 << 21, 1 << 4
# Standard errors on either side of the expected rank in the sample.
_SPREAD = 6.0
# A range is counted in about 2^13 bins.
_BIN_BITS = 13


@dataclass(frozen=True)
class Cut:
    """A threshold, and the first of the elements equal to it that are dropped."""

    bits: int
    """Threshold: the bits of a float32 magnitude."""
    names: tuple[str, ...]
    """The tensors that were cut together, in order."""
    place: tuple[int, int]
    """Tensor (its position in `names`) and element from which on equal elements are dropped."""

    def keep(self, chunk: Chunk, values: Array) -> Array:
        """The values of a chunk above the cut; the others become 0."""
        position = self.names.index(chunk.name)
        tensor, element = self.place
        if position == tensor:
            boundary = element - chunk.start
        else:
            boundary = _WHOLE_CHUNK if position < tensor else 0
        return chunk.ops.keep_large(values, self.bits, boundary)


def smallest(names: tuple[str, ...], count: int, rate: float, values: Values) -> Rounds:
    """Pre-pass for the cut that drops exactly round(p * n) elements of smallest magnitude.

    Args:
        names: tensors that are cut together.
        count: elements n of all of them.
        rate: share p that is dropped.
        values: the elements to cut, of a chunk.
    """
    return (yield from _cut(names, count, round(rate * count), values))


def largest(names: tuple[str, ...], count: int, rate: float, values: Values) -> Rounds:
    """Pre-pass for the cut that keeps exactly round(p * n) elements of largest magnitude."""
    return (yield from _cut(names, count, count - round(rate * count), values))


def kth_smallest(count: int, rate: float, values: Values) -> Rounds:
    """Pre-pass for the bits of the int(p * n)-th smallest magnitude; None if int(p * n) is 0."""
    rank = int(rate * count)
    return (yield from _threshold(rank, count, values)).bits if rank else None


@dataclass(frozen=True)
class _Threshold:
    bits: int
    below: int
    """Number of smaller magnitudes."""
    equal: int
    """Number of magnitudes equal to it."""
    chunks: list[tuple[str, int, int]] | None
    """Number of equal magnitudes in each chunk: tensor, first element, number. None: unknown."""


def _cut(names: tuple[str, ...], count: int, drop: int, values: Values) -> Rounds:
    if drop == 0:
        return Cut(0, names, (len(names), 0))
    threshold: _Threshold = yield from _threshold(drop, count, values)
    bits, keep = threshold.bits, threshold.equal - (drop - threshold.below)
    if keep == 0 or bits == 0:
        # All equal elements are dropped, or they are zeros, for which it makes no difference.
        return Cut(bits, names, (0, 0))
    chunks = threshold.chunks
    if chunks is None:
        chunks = yield CountUntil(lambda chunk: chunk.ops.count_equal(values(chunk), bits), keep)
    place, keep = _crossing(chunks, keep)
    (element,) = yield PerChunk(
        lambda chunk: chunk.ops.place_of_equal(values(chunk), bits, keep - 1), at=place
    )
    return Cut(bits, names, (names.index(place[0]), place[1] + element + 1))


def _crossing(chunks: Iterable[tuple[str, int, int]], keep: int) -> tuple[tuple[str, int], int]:
    """Chunk (tensor, first element) of the last equal element that is kept, and its rank there."""
    for name, start, number in chunks:
        if number >= keep:
            return (name, start), keep
        keep -= number
    raise AssertionError(f"{keep} elements equal to the threshold are missing")


def _threshold(rank: int, count: int, values: Values) -> Rounds:
    """The rank-th smallest of `count` magnitudes."""
    if count <= _FEW:
        return (yield from _by_sorting(rank, values))
    threshold = yield from _near_a_sample(rank, count, values)
    return threshold or (yield from _by_histograms(rank, values))


def _by_sorting(rank: int, values: Values) -> Rounds:
    """Step 1: sort all magnitudes."""
    chunks = yield PerChunk(
        lambda chunk: (chunk.name, chunk.start, chunk.ops.magnitudes(values(chunk)))
    )
    magnitudes = np.sort(np.concatenate([part for _, _, part in chunks]))
    bits = magnitudes[rank - 1]
    below, end = np.searchsorted(magnitudes, bits), np.searchsorted(magnitudes, bits, "right")
    equal = [(name, start, int(np.count_nonzero(part == bits))) for name, start, part in chunks]
    return _Threshold(int(bits), int(below), int(end - below), equal)


@dataclass(frozen=True)
class _Range:
    """Magnitudes near the threshold; those equal to a guess are counted apart."""

    low: int
    width: int
    guesses: tuple[int, ...]
    others: float = 0.0
    """Share of all magnitudes expected in the range and equal to no guess."""

    @property
    def shift(self) -> int:
        """Bins have 2^shift magnitudes."""
        return max((self.width - 1).bit_length() - _BIN_BITS, 0)


def _near_a_sample(rank: int, count: int, values: Values) -> Rounds:
    """Steps 2 and 3: the threshold from a sample and a pass; None if the sample was misleading."""
    size = min(max(SAMPLE_CHUNK * _SAMPLED // count, _SMALLEST_SAMPLE), _LARGEST_SAMPLE)
    # Chunks of whole rows are longer than `size`. The samples are released before the next round.
    likely = _likely_range(
        (
            yield PerChunk(
                lambda chunk: chunk.ops.magnitudes(values(chunk))[:size].copy(), sample=size
            )
        ),
        rank / count,
    )
    most = min(count // LISTED_FROM, LISTED)
    if likely.others * count <= 0.8 * most:
        return (yield from _listed(likely, most, rank, values))
    narrowed = yield from _binned(likely, rank, values)
    if isinstance(narrowed, _Range):
        return (yield from _listed(narrowed, most, rank, values))
    return narrowed


def _likely_range(samples: Sequence[NDArray[np.uint32]], share: float) -> _Range:
    """The range in which a sample has the magnitude below which this share lies."""
    sample = np.concatenate(samples)
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
    """The threshold, if the range holds it and at most `most` magnitudes besides guesses."""
    remaining, lock = most, Lock()

    def measure(chunk: Chunk) -> tuple[str, int, Counts, NDArray[np.uint32]]:
        nonlocal remaining
        limit = max(min(remaining, chunk.count), 0)
        counts, others = chunk.ops.list_near(
            values(chunk), near.low, near.width, near.guesses, limit
        )
        # Beyond the limit the list is not used, so it does not matter what it lacks. Chunks that
        # threads measure at the same time can exceed the limit by what each lists.
        listed = others.size
        with lock:
            remaining -= listed
        return chunk.name, chunk.start, counts, others

    chunks = yield PerChunk(measure)
    below, *equal, number = map(int, np.sum([counts for _, _, counts, _ in chunks], axis=0))
    others = np.concatenate([part for *_, part in chunks])
    if others.size < number or not below < rank <= below + sum(equal) + number:
        return None
    others.sort()
    # Guesses and others are distinct: `passed` counts what lies below, guesses included.
    passed = below
    for guess, number_equal in sorted(zip(near.guesses, equal, strict=False)):
        before = passed + int(others.searchsorted(np.uint32(guess)))
        if before < rank <= before + number_equal:
            place = 1 + near.guesses.index(guess)
            by_chunk = [(name, start, int(counts[place])) for name, start, counts, _ in chunks]
            return _Threshold(guess, before, number_equal, by_chunk)
        if before < rank:
            passed += number_equal
    bits = others[rank - passed - 1]
    start, end = (int(others.searchsorted(bits, side)) for side in ("left", "right"))
    by_chunk = [
        (name, first, int(np.count_nonzero(part == bits))) for name, first, _, part in chunks
    ]
    return _Threshold(int(bits), passed + start, end - start, by_chunk)


def _binned(near: _Range, rank: int, values: Values) -> Rounds:
    """The threshold if it is a guess, else the bin that holds it; None if the range does not."""
    # Deltas of models stored in 16 bits have trailing zero bits, so bins start at such values.
    low = near.low >> near.shift << near.shift
    width = near.low + near.width - low
    first = 1 + GUESSES

    def measure(chunk: Chunk, counts: Counts) -> Counts:
        before = counts[1:first].copy()
        chunk.ops.count_near(values(chunk), low, width, near.shift, near.guesses, counts)
        return counts[1:first] - before

    counts, chunks = yield Histogram(first + ((width - 1) >> near.shift) + 1, measure)
    bins, below = counts[first:].copy(), int(counts[0])
    equal = dict(zip(near.guesses, map(int, counts[1:]), strict=False))
    for guess, number in equal.items():
        bins[(guess - low) >> near.shift] += number
    if not below < rank <= below + bins.sum():
        return None
    place, before = _bin_of(bins, rank - below)
    below += before
    start = low + (place << near.shift)
    # If a bin starts with a guess, its other magnitudes are larger.
    if rank <= below + equal.get(start, 0):
        guess = near.guesses.index(start)
        by_chunk = [(name, element, int(numbers[guess])) for name, element, numbers in chunks]
        return _Threshold(start, below, equal[start], by_chunk)
    within = [guess for guess in near.guesses if start < guess < start + (1 << near.shift)]
    return _Range(start, 1 << near.shift, (start, *within[: GUESSES - 1]))


def _by_histograms(rank: int, values: Values) -> Rounds:
    """Step 4: the threshold from two passes over all elements."""
    high, _ = yield Histogram(
        HIGH_BINS + 1, lambda chunk, counts: chunk.ops.count_high(values(chunk), counts)
    )
    if rank <= high[HIGH_BINS]:
        return _Threshold(0, 0, int(high[HIGH_BINS]), None)
    leading, _ = _bin_of(high[:HIGH_BINS], rank)
    low, width = leading << LOW_BITS, 1 << LOW_BITS
    counts, _ = yield Histogram(
        1 + GUESSES + width,
        lambda chunk, counts: chunk.ops.count_near(values(chunk), low, width, 0, (), counts),
    )
    bins = counts[1 + GUESSES :]
    place, before = _bin_of(bins, rank - int(counts[0]))
    return _Threshold(low + place, int(counts[0]) + before, int(bins[place]), None)


def _bin_of(histogram: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The bin of the `rank`-th smallest element, and the number of elements in the bins below."""
    total = histogram.cumsum()
    # For rank 0 the threshold is the smallest value.
    index = int(np.searchsorted(total, max(rank, 1)))
    return index, int(total[index] - histogram[index])
