"""Numbered questions: every combination of choices has a number, every seed numbers of its own.

Question `index` of a seed is the combination with the number of the pair (seed, index), as Cantor
counts pairs, scattered over all combinations by a permutation. So no question occurs twice, within
a seed or in two of them, and nothing needs to be remembered or drawn again.
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
#: Short words that nearly every tokenizer has as one token.
WORDS = _TEXT.split()
_ROUNDS = 4


@dataclass(frozen=True)
class Template:
    """One kind of question."""

    make: Callable[..., dict[str, Any]]
    """A record from one choice of each pool; other choices give another question."""
    pools: tuple[Sequence[Any], ...]


def draw(templates: Sequence[Template], count: int, seed: int) -> list[dict[str, Any]]:
    """Records of all templates in turn.

    Raises:
        ConfigError: a template has not enough combinations for this seed and count.
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
    """One element of each pool; no two pairs of seed and index get the same.

    Raises:
        ConfigError: there are not enough combinations.
    """
    size = math.prod(map(len, pools))
    number = (seed + index) * (seed + index + 1) // 2 + index
    if number >= size:
        raise ConfigError(
            f"a generator has no question {index} for seed {seed} (it knows {size} in all, and "
            "each seed has its own); give a lower seed or count"
        )
    rest = _scatter(number, size, permutation)
    chosen = []
    for pool in pools:
        rest, position = divmod(rest, len(pool))
        chosen.append(pool[position])
    return chosen


def _scatter(number: int, size: int, permutation: int) -> int:
    """A permutation of the numbers below `size`: a Feistel network, walked until it is back."""
    half = (size.bit_length() + 1) // 2
    while True:
        left, right = number >> half, number & ((1 << half) - 1)
        for turn in range(_ROUNDS):
            mixed = hashlib.sha256(b"%d:%d:%d" % (permutation, turn, right)).digest()
            left, right = right, left ^ int.from_bytes(mixed, "big") & ((1 << half) - 1)
        number = left << half | right
        if number < size:
            return number
