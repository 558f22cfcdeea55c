"""Exact selection by magnitude: which elements are the smallest, of a tensor or of a model.

The threshold is found by counting: two histograms over the bits of float32 magnitudes, which sort
like the magnitudes themselves. So no tensor is sorted and no model is flattened. Of elements equal
to the threshold, those that come first (by tensor in the given order, then by index) are kept.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from mergegrid.recipe.sparsifiers import Scope

_LOW_BITS = 16
_BINS = 1 << (31 - _LOW_BITS)


@dataclass(frozen=True)
class Cut:
    """Which elements of one tensor are kept: larger than `bits`, and the first equal ones."""

    bits: int
    """Threshold: the bits of a float32 magnitude."""
    keep_equal: int
    """How many elements equal to the threshold are kept."""

    def keep(self, values: torch.Tensor) -> torch.Tensor:
        """Boolean mask of the elements that are kept, in the shape of `values` (float32)."""
        bits = _bits(values)
        mask = bits > self.bits
        equal = (bits == self.bits).flatten()
        if self.keep_equal:
            first = equal & (equal.cumsum(0) <= self.keep_equal)
            mask = mask | first.view(mask.shape)
        return mask


def cut_smallest(
    names: Iterable[str], tensor: Callable[[str], torch.Tensor], rate: float, scope: Scope
) -> Mapping[str, Cut]:
    """Cuts that drop exactly round(p * n) elements of smallest magnitude.

    Args:
        names: tensors, in the order in which equal elements take precedence.
        tensor: float32 tensor of a name; asked for up to three times each.
        rate: share p that is dropped.
        scope: whether n counts each tensor (`per_tensor`) or all of them (`global`).
    """
    names = list(names)
    if scope == "global":
        return _cuts(names, tensor, rate)
    return {name: _cuts([name], tensor, rate)[name] for name in names}


def _cuts(names: list[str], tensor: Callable[[str], torch.Tensor], rate: float) -> dict[str, Cut]:
    high = sum(_histogram(_bits(tensor(name)) >> _LOW_BITS, _BINS) for name in names)
    assert isinstance(high, torch.Tensor), "a model has at least one tensor"
    drop = round(rate * int(high.sum()))
    bucket, below = _bucket(high, drop)
    low = sum(_histogram(_low_bits(tensor(name), bucket), 1 << _LOW_BITS) for name in names)
    assert isinstance(low, torch.Tensor)
    rest, below_in_bucket = _bucket(low, drop - below)
    bits = bucket << _LOW_BITS | rest
    budget = int(low[rest]) - (drop - below - below_in_bucket)
    cuts: dict[str, Cut] = {}
    for name in names:
        equal = int((_bits(tensor(name)) == bits).sum()) if len(names) > 1 else budget
        cuts[name] = Cut(bits, min(equal, budget))
        budget -= cuts[name].keep_equal
    return cuts


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.abs().contiguous().view(torch.int32)


def _low_bits(values: torch.Tensor, bucket: int) -> torch.Tensor:
    bits = _bits(values).flatten()
    return bits[bits >> _LOW_BITS == bucket] & ((1 << _LOW_BITS) - 1)


def _histogram(values: torch.Tensor, bins: int) -> torch.Tensor:
    return torch.bincount(values.flatten(), minlength=bins).cpu()


def _bucket(histogram: torch.Tensor, drop: int) -> tuple[int, int]:
    """The bin in which the `drop`-th smallest lies, and how many elements lie below it."""
    total = histogram.cumsum(0)
    # With nothing to drop the threshold is the smallest value, and all its equals are kept.
    bucket = int(torch.searchsorted(total, max(drop, 1)))
    return bucket, int(total[bucket] - histogram[bucket])
