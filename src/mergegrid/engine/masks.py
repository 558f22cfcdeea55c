"""Random masks that depend on nothing but seed, expert, tensor name and element index.

An element is kept if its 32-bit word is below round((1-p) * 2^32). The word does not depend on p,
so masks are nested: what survives p=0.9 survives p=0.5. Nor does it depend on the device, the
number of threads, the size of chunks or shards, or the other models of a recipe.

Words come from Philox4x32-10: element i of a tensor takes word i mod 4 of block i div 4. The
generator's key and the upper half of its counter are a hash of seed, expert and tensor name; the
lower half counts blocks.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

from mergegrid.engine.ops.operations import MaskKey
from mergegrid.hashing import canonical_json


def threshold(rate: float) -> int:
    """The number of 32-bit words that keep an element at drop rate p: round((1-p) * 2^32)."""
    return round((1 - rate) * 2**32)


def surely_drop(tensors: Sequence[tuple[int, float]], least: int) -> bool:
    """Whether masks of some tensors drop at least `least` elements, decided without drawing them.

    True means that the probability of fewer is below 2^-128, as for a collision of digests; False
    means that it has to be counted.
    Source: Hoeffding, "Probability inequalities for sums of bounded random variables", Journal of
    the American Statistical Association 58, 1963, theorem 1.

    Args:
        tensors: number of elements and drop rate of each.
        least: number of elements.
    """
    count = sum(size for size, _ in tensors)
    expected = sum(size * (1 - threshold(rate) / 2**32) for size, rate in tensors)
    if least <= 0 or expected == count:
        return least <= count
    if least >= expected:
        return False
    share, mean = least / count, expected / count
    divergence = share * math.log(share / mean) + (1 - share) * math.log((1 - share) / (1 - mean))
    return count * divergence > 128 * math.log(2)


@lru_cache(maxsize=1024)
def mask_key(seed: int, expert: str, tensor: str) -> MaskKey:
    """Key (two words) and upper counter words (two) of a tensor's mask: BLAKE2b, 16 bytes."""
    text = canonical_json([seed, expert, tensor]).encode()
    raw = hashlib.blake2b(text, digest_size=16).digest()
    k0, k1, c2, c3 = (int.from_bytes(raw[i : i + 4], "little") for i in range(0, 16, 4))
    return k0, k1, c2, c3
