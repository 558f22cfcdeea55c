"""The memory of arrays on the CPU."""

import numpy as np
import pytest

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.ops.cpu import CpuOperations

FLOAT32 = DTYPES["float32"]


@pytest.fixture
def ops():
    return CpuOperations()


def numbers(ops, *arrays):
    return [stored.tolist() for stored, _ in ops.store(arrays, [FLOAT32] * len(arrays))]


def test_one_room_can_be_loaded_twice(ops):
    room = ops.buffer(3, FLOAT32)
    room[:] = [1, 2, 3]
    first, second = ops.load(room, FLOAT32), ops.load(room, FLOAT32)
    assert numbers(ops, first, second) == [[1, 2, 3]] * 2


def test_a_room_of_before_the_restart_can_be_loaded(ops):
    for values in ([1, 2], [3, 4]):
        room = ops.buffer(2, FLOAT32)
        room[:] = values
        ops.load(room, FLOAT32)
    ops.restart()
    assert numbers(ops, ops.load(room, FLOAT32)) == [[3, 4]]


def test_numbers_of_elsewhere_are_copied(ops):
    outside = np.float32([5, 6])
    held = ops.load(outside, FLOAT32)
    outside[:] = 0
    assert numbers(ops, held, ops.load(outside, FLOAT32)) == [[5, 6], [0, 0]]
