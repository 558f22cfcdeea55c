"""Philox4x32-10 against the known answers published with Random123 (kat_vectors)."""

import pytest
import torch

from mergegrid.merging.philox import philox

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (ONES, ONES, ONES, ONES),
        (ONES, ONES),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_words_are_those_published_with_random123(counter, key, words):
    result = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in result) == words


def test_counters_are_independent_of_their_neighbours():
    counters = [torch.tensor([word, 0]) for word in KNOWN_ANSWERS[2][0]]
    together = philox(tuple(counters), KNOWN_ANSWERS[2][1])
    assert tuple(int(word[0]) for word in together) == KNOWN_ANSWERS[2][2]
