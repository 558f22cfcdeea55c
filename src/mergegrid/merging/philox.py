"""Philox4x32-10: random words that are a pure function of a key and a counter.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
section 4.3. A 64-bit key and a 128-bit counter give four words of 32 bits.
"""

import torch

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(
    counter: tuple[torch.Tensor, ...], key: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four words for each counter.

    Args:
        counter: four int64 tensors of one shape [n] with values below 2^32, lowest word first.
        key: two numbers below 2^32, lowest word first.

    Returns:
        Four int64 tensors [n] with values below 2^32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64, so both halves of the unsigned product are exact.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            _high(p1).bitwise_xor_(c1).bitwise_xor_(k0),
            p1.bitwise_and_(_LOW),
            _high(p0).bitwise_xor_(c3).bitwise_xor_(k1),
            p0.bitwise_and_(_LOW),
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _high(product: torch.Tensor) -> torch.Tensor:
    return (product >> 32).bitwise_and_(_LOW)
