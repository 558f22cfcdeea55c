"""Random masks that depend on nothing but seed, expert, tensor name and element index.

An element is kept if its 32-bit word is below round((1-p) * 2^32). The word does not depend on p,
so masks are nested: what survives p=0.9 survives p=0.5. Nor does it depend on the device, the
number of threads, the size of chunks or shards, or the other models of a recipe.
"""

import hashlib
from collections.abc import Iterator

import torch

from mergegrid.merging.philox import philox
from mergegrid.provenance import canonical_json

_BLOCKS = 1 << 15  # Blocks of four words per chunk: temporaries stay in the processor's cache.


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
    mask = torch.empty(count, dtype=torch.bool, device=device)
    for start, drawn in _chunks(seed, expert, tensor, 0, count, device):
        torch.lt(drawn, threshold(rate), out=mask[start : start + len(drawn)])
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
    parts = [drawn for _, drawn in _chunks(seed, expert, tensor, start, stop, device)]
    return torch.cat([torch.empty(0, dtype=torch.int64, device=device), *parts])


def _chunks(
    seed: int, expert: str, tensor: str, start: int, stop: int, device: torch.device | str
) -> Iterator[tuple[int, torch.Tensor]]:
    """The words piece by piece, each with the element at which it starts."""
    k0, k1, c2, c3 = _key(seed, expert, tensor)
    last = -(-stop // 4)
    for low in range(start // 4, last, _BLOCKS):
        block = torch.arange(low, min(low + _BLOCKS, last), dtype=torch.int64, device=device)
        upper = torch.full_like(block, c2), torch.full_like(block, c3)
        lanes = philox((block & 0xFFFFFFFF, block >> 32, *upper), (k0, k1))
        first = max(start, 4 * low)
        drawn = torch.stack(lanes, dim=1).flatten()
        yield first, drawn[first - 4 * low : stop - 4 * low]


def _key(seed: int, expert: str, tensor: str) -> tuple[int, int, int, int]:
    text = canonical_json([seed, expert, tensor]).encode()
    raw = hashlib.blake2b(text, digest_size=16).digest()
    low, high, c2, c3 = (int.from_bytes(raw[i : i + 4], "little") for i in range(0, 16, 4))
    return low, high, c2, c3
