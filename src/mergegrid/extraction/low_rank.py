"""Low-rank factors of a matrix that is read in blocks of rows, a few times over.

Randomized subspace iteration: a random matrix is multiplied by the Gram matrix δᵀδ three times,
with an orthonormal basis in between; the singular value decomposition of δ on that basis gives the
factors.
Source: Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 53, 2011,
algorithms 4.4 and 5.1. All in float64, so that working on δᵀδ, whose singular values are squares,
loses only those below 1e-8 of the largest.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergegrid.engine.masks import mask_key
from mergegrid.engine.ops.operations import Operations
from mergegrid.errors import ConfigError

Doubles = NDArray[np.float64]
Blocks = Callable[[], Iterator[tuple[int, Doubles]]]
"""Starts a pass over a matrix: blocks of rows in order, each with the number of its first row."""

OVERSAMPLING = 8
"""Random directions beyond the rank."""
ITERATIONS = 3
"""Multiplications by the Gram matrix."""
PASSES = ITERATIONS + 1
"""Passes over the matrix for one sketch."""
FIRST_RANK = 64
"""Where the search for the rank of an energy starts; it doubles from there."""
LARGEST_RANK = 512
"""The largest rank with an energy, unless told otherwise: vLLM reserves memory for no more."""
_NEGLIGIBLE = 1e-14
"""Share of the energy below which a direction is left out; float32 factors would not hold it."""


@dataclass(frozen=True)
class RankRule:
    """How many directions of a delta are kept."""

    most: int
    """The largest rank."""
    energy: float | None = None
    """Share of the squared norm to keep with as few directions as possible; None: `most` always."""

    def ranks(self, limit: int) -> Iterator[int]:
        """Ranks of the sketches of a matrix with `limit` directions, until one suffices."""
        rank = self.most if self.energy is None else FIRST_RANK
        while rank < min(self.most, limit):
            yield rank
            rank *= 2
        yield min(self.most, limit)

    def choose(self, shares: Doubles, rank: int) -> int:
        """How many of the first `rank` directions are kept, by the energy of each."""
        rank = max(int(np.count_nonzero(shares[:rank] > _NEGLIGIBLE)), 1)
        if self.energy is None:
            return rank
        kept = np.cumsum(shares[:rank])
        return min(int(np.searchsorted(kept, self.energy - _NEGLIGIBLE)) + 1, rank)

    def satisfied(self, energy: float) -> bool:
        """Whether a share of the energy is what was requested."""
        return self.energy is None or energy >= self.energy - _NEGLIGIBLE


def rank_rule(
    rank: int | None = None, energy: float | None = None, max_rank: int | None = None
) -> RankRule:
    """The rule for a fixed rank, or for an energy with ranks up to `max_rank`.

    Raises:
        ConfigError: both or neither are given, or a number is out of range.
    """
    if (rank is None) == (energy is None):
        raise ConfigError("give exactly one of rank and energy: rank 64, or energy 0.99")
    if rank is not None:
        if max_rank is not None:
            raise ConfigError(f"max_rank {max_rank} is for an energy; with a rank, omit it")
        if rank < 1:
            raise ConfigError(f"rank {rank} is not positive; choose e.g. 64")
        return RankRule(rank)
    assert energy is not None
    if not 0 < energy <= 1:
        raise ConfigError(f"energy {energy} is not a share; choose more than 0 and at most 1")
    if max_rank is not None and max_rank < 1:
        raise ConfigError(f"max_rank {max_rank} is not positive; choose e.g. {LARGEST_RANK}")
    return RankRule(LARGEST_RANK if max_rank is None else max_rank, energy)


@dataclass(frozen=True)
class Factors:
    """Factors of a matrix: it is about `left` [rows, rank] times `right` [rank, columns]."""

    left: Doubles
    right: Doubles
    energy: float
    """Share of the squared Frobenius norm that the product keeps."""


def factorize(
    blocks: Blocks, shape: tuple[int, int], rule: RankRule, squared_norm: float, random: Doubles
) -> Factors:
    """Factors of the best low rank that the rule allows; singular values are split evenly.

    Args:
        blocks: starts a pass over the matrix.
        shape: rows and columns of the matrix.
        rule: how many directions are kept.
        squared_norm: sum of the squared elements, larger than 0.
        random: normal numbers [columns, at least `sketch_width(rule, shape)`].
    """
    for rank in rule.ranks(min(shape)):
        width = min(rank + OVERSAMPLING, *shape)
        left, values, right = _sketch(blocks, shape, random[:, :width])
        shares = values**2 / squared_norm
        kept = rule.choose(shares, rank)
        energy = float(shares[:kept].sum())
        if rule.satisfied(energy):
            break
    root = np.sqrt(values[:kept])
    return Factors(left[:, :kept] * root, root[:, None] * right[:kept], energy)


def sketch_width(rule: RankRule, shape: tuple[int, int]) -> int:
    """Columns of the widest sketch of a matrix."""
    return min(min(rule.most, *shape) + OVERSAMPLING, *shape)


def squared_error(blocks: Blocks, left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Sum of the squared differences between a matrix and the product of two factors."""
    wide, total = right.astype(np.float64), 0.0
    for first, block in blocks():
        difference = block - left[first : first + len(block)].astype(np.float64) @ wide
        total += float(np.vdot(difference, difference))
    return total


def normal_numbers(ops: Operations, seed: int, name: str, shape: tuple[int, int]) -> Doubles:
    """Normal numbers that depend on seed and tensor name alone (Philox words, Box-Muller)."""
    count = 2 * -(-math.prod(shape) // 2)
    ops.restart()
    words = ops.values(ops.random_words(mask_key(seed, "extraction", name), 0, count))
    uniform = (words.view(np.uint32).astype(np.float64) + 0.5) * 2.0**-32
    radius, angle = np.sqrt(-2 * np.log(uniform[0::2])), 2 * np.pi * uniform[1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)[: math.prod(shape)].reshape(shape)


def _sketch(
    blocks: Blocks, shape: tuple[int, int], random: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """Left vectors, singular values and right vectors of a matrix on a random basis."""
    basis = random
    for _ in range(ITERATIONS):
        image = np.zeros((basis.shape[1], shape[1]))
        for _, block in blocks():
            image += (block @ basis).T @ block
        basis = np.linalg.qr(image.T)[0]
    projected = np.empty((shape[0], basis.shape[1]))
    for first, block in blocks():
        projected[first : first + len(block)] = block @ basis
    left, values, mix = np.linalg.svd(projected, full_matrices=False)
    return left, values, mix @ basis.T
