"""Random masks that depend on nothing but seed, expert, tensor name and element index.

An element is kept if its 32-bit word is below round((1-p) * 2^32). The word does not depend on p,
so masks are nested: what survives p=0.9 survives p=0.5. Nor does it depend on the device, the
number of threads, the size of chunks or shards, or the other models of a recipe.
"""

import hashlib

import torch

from mergegrid.merging.philox import philox
from mergegrid.provenance import canonical_json

_BLOCKS = 1 << 16  # Blocks of four words per chunk: temporaries stay in the processor's cache.


def threshold(rate: float) -> int:
    """The number of 32-bit words that keep an element at drop rate p: round((1-p) * 2^32)."""
    return round((1 - rate) * 2**32)


def keep(
    seed: int,
    expert: str,
    tensor: str,
    rate: float,
    shape: torch.Size | tuple[int, ...],
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The mask of a whole tensor: True where its elements survive drop rate p.

    Returns:
        Boolean tensor of the given shape.
    """
    count = torch.Size(shape).numel()
    mask = words(seed, expert, tensor, 0, count, device) < threshold(rate)
    return mask.view(shape)


def words(
    seed: int,
    expert: str,
    tensor: str,
    start: int,
    stop: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The 32-bit words of the elements `start` to `stop` of a tensor, flattened row by row.

    Element i takes word i mod 4 of block i div 4. Key and upper half of the counter come from
    a hash of seed, expert and tensor name; the lower half counts blocks.

    Returns:
        int64 tensor [stop - start] with values below 2^32.
    """
    k0, k1, c2, c3 = _key(seed, expert, tensor)
    first, last = start // 4, -(-stop // 4)
    out = torch.empty((last - first) * 4, dtype=torch.int64, device=device)
    for low in range(first, last, _BLOCKS):
        high = min(low + _BLOCKS, last)
        block = torch.arange(low, high, dtype=torch.int64, device=device)
        counter = (
            block & 0xFFFFFFFF,
            block >> 32,
            torch.full_like(block, c2),
            torch.full_like(block, c3),
        )
        chunk = out[(low - first) * 4 : (high - first) * 4].view(-1, 4)
        for lane, word in enumerate(philox(counter, (k0, k1))):
            chunk[:, lane] = word
    return out[start - 4 * first : stop - 4 * first]


def _key(seed: int, expert: str, tensor: str) -> tuple[int, int, int, int]:
    text = canonical_json([seed, expert, tensor]).encode()
    raw = hashlib.blake2b(text, digest_size=16).digest()
    low, high, c2, c3 = (int.from_bytes(raw[i : i + 4], "little") for i in range(0, 16, 4))
    return low, high, c2, c3
