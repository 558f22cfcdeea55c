"""Philox4x32-10 against the known answers published with Random123 (kat_vectors)."""

import numpy as np
import pytest

from mergegrid.kernels.loops import philox

ONES = 0xFFFFFFFF
#: Counter, key, words.
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


def drawn(counter, key, blocks=1):
    """Words of consecutive blocks, the first of which has this counter."""
    out = np.empty(4 * blocks, np.uint32)
    first = counter[0] | counter[1] << 32
    philox(*map(np.uint64, (*key, counter[2], counter[3], first)), out)
    return tuple(int(word) for word in out)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_words_are_those_published_with_random123(counter, key, words):
    assert drawn(counter, key) == words


@pytest.mark.parametrize("before", [1, 2, 7])
def test_words_of_a_block_do_not_depend_on_where_drawing_starts(before):
    counter, key, words = KNOWN_ANSWERS[2]
    earlier = (counter[0] - before, *counter[1:])
    assert drawn(earlier, key, before + 2)[4 * before : 4 * before + 4] == words


def test_block_numbers_carry_into_the_second_word_of_the_counter():
    key, upper = (1, 2), (3, 4)
    together = drawn((ONES - 1, 0, *upper), key, 4)
    counters = [(ONES - 1, 0), (ONES, 0), (0, 1), (1, 1)]
    alone = [drawn((*counter, *upper), key) for counter in counters]
    assert together == tuple(word for words in alone for word in words)
    # The carry reaches no further: the upper words belong to the tensor.
    assert drawn((ONES, ONES, *upper), key, 2)[4:] == drawn((0, 0, *upper), key)
