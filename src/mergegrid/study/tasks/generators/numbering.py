"""Numbered questions: combinations of choices that never repeat, within a seed or across seeds.

Every combination has a number. Question `index` of a seed is the combination whose number is that
of the pair (seed, index) in Cantor's enumeration, scattered over all combinations by a permutation.
No history is needed to avoid repetitions.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mergegrid.errors import ConfigError

_TEXT = (
    "apple arm baby ball band bank bath bear bell bird boat body bone book box boy bread bridge "
    "brother bus cake card cat chair city cloud coat coffee corn cow cup day desk dog door "
    "dress egg engine eye face farm father field fire fish floor flower food foot forest friend "
    "fruit game garden girl glass gold grass hair hall hand hat head heart hill horse house ice "
    "island key king kitchen lake lamp land leaf leg letter light line lion map meat milk moon "
    "mother mouth music nail name neck nest night nose ocean oil owl page paint paper park pen "
    "pig pipe plant plate pool queen rain rice ring river road rock roof room root rose salt "
    "sand school sea seat seed sheep ship shirt shoe shop silver sister skin sky snow soap song "
    "soup star stone storm street sugar summer sun table tail tea tent tiger town toy train "
    "tree wall watch water wave wheel wind window wine winter wolf wood wool"
)
#: Short words that are one token for nearly every tokenizer.
WORDS = _TEXT.split()
_ROUNDS = 4


@dataclass(frozen=True)
class Template:
    """One kind of question."""

    make: Callable[..., dict[str, Any]]
    """Makes a record from one element of each pool; other elements make another question."""
    pools: tuple[Sequence[Any], ...]


def draw(templates: Sequence[Template], count: int, seed: int) -> list[dict[str, Any]]:
    """Make records of all templates in turn.

    Raises:
        ConfigError: a template has too few combinations for this seed and count.
    """
    records = []
    for number in range(count):
        index, position = divmod(number, len(templates))
        template = templates[position]
        records.append(template.make(*choose(template.pools, seed, index, position)))
    return records


def choose(
    pools: Sequence[Sequence[Any]], seed: int, index: int, permutation: int = 0
) -> list[Any]:
    """Choose one element of each pool, differently for every pair of seed and index.

    Raises:
        ConfigError: there are too few combinations.
    """
    size = math.prod(map(len, pools))
    number = (seed + index) * (seed + index + 1) // 2 + index
    if number >= size:
        raise ConfigError(
            f"a generator has no question {index} for seed {seed}: it has {size} in all, which "
            "different seeds share without repetition; use a lower seed or count"
        )
    rest = _scatter(number, size, permutation)
    chosen = []
    for pool in pools:
        rest, position = divmod(rest, len(pool))
        chosen.append(pool[position])
    return chosen


def _scatter(number: int, size: int, permutation: int) -> int:
    """Permute the numbers below `size`: a Feistel network, repeated until in range."""
    half = (size.bit_length() + 1) // 2
    while True:
        left, right = number >> half, number & ((1 << half) - 1)
        for round_number in range(_ROUNDS):
            mixed = hashlib.sha256(b"%d:%d:%d" % (permutation, round_number, right)).digest()
            left, right = right, left ^ int.from_bytes(mixed, "big") & ((1 << half) - 1)
        number = left << half | right
        if number < size:
            return number
