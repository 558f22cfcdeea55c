"""Digests of tensors, made of runs in any order."""

import hashlib
import json

import numpy as np
import pytest
from xxhash import xxh3_128_digest

from mergegrid.checkpoints.checkpoint import InMemory, TensorInfo
from mergegrid.checkpoints.digests import LEAF, TensorDigests, checkpoint_digest, digest_tensors
from mergegrid.checkpoints.dtypes import DTYPES

COUNT = 3 * LEAF + 1000


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal(COUNT).astype(np.float32)


def digest(values, shape=None, dtype="float32", runs=None):
    """Digest of one tensor that is added in runs, given by their first leaves."""
    info = TensorInfo(shape or values.shape, DTYPES[dtype])
    digests = TensorDigests({"w": info})
    leaves = -(-values.size // LEAF)
    for first, last in runs or [(0, leaves)]:
        digests.add("w", first * LEAF, values[first * LEAF : last * LEAF])
    return digests.tensors()["w"]


def test_a_digest_is_that_of_dtype_shape_and_leaves(values):
    leaves = b"".join(
        xxh3_128_digest(values[start : start + LEAF].tobytes()) for start in range(0, COUNT, LEAF)
    )
    head = f'["float32",[{COUNT}]]'.encode()
    assert digest(values) == hashlib.sha256(head + leaves).hexdigest()


@pytest.mark.parametrize(
    "runs", [[(0, 1), (1, 2), (2, 3), (3, 4)], [(2, 4), (0, 2)], [(3, 4), (1, 3), (0, 1)]]
)
def test_a_digest_does_not_depend_on_the_length_and_the_order_of_runs(values, runs):
    assert digest(values, runs=runs) == digest(values)


@pytest.mark.parametrize("place", [0, LEAF - 1, LEAF, COUNT - 1])
def test_every_element_counts(values, place):
    changed = values.copy()
    changed.view(np.uint32)[place] ^= 1
    assert digest(changed) != digest(values)


def test_shape_and_dtype_count():
    stored = np.zeros(6, np.float16)
    digests = {
        digest(stored, (6,), "float16"),
        digest(stored, (2, 3), "float16"),
        digest(stored, (3, 2), "float16"),
        digest(stored.view(np.uint16), (6,), "bfloat16"),
    }
    assert len(digests) == 4


def test_the_sign_of_zero_counts():
    assert digest(np.zeros(3, np.float32)) != digest(-np.zeros(3, np.float32))


def test_exchanged_leaves_change_the_digest(values):
    exchanged = np.concatenate([values[LEAF : 2 * LEAF], values[:LEAF], values[2 * LEAF :]])
    assert digest(exchanged) != digest(values)


def test_a_run_must_start_at_a_leaf(values):
    digests = TensorDigests({"w": TensorInfo((COUNT,), DTYPES["float32"])})
    with pytest.raises(AssertionError, match="multiples of 65536, got 4"):
        digests.add("w", 4, values[4:])


def test_a_checkpoint_is_digested_like_its_tensors(values):
    tensors = {"b": values.reshape(8, -1), "a": values[:5], "empty": values[:0]}
    expected = {name: digest(each.ravel(), each.shape) for name, each in tensors.items()}
    assert digest_tensors(InMemory(tensors)) == expected


@pytest.mark.parametrize("added", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_what_was_not_added_is_read_in_the_end(values, added):
    checkpoint = InMemory({"w": values, "v": values[:9], "empty": values[:0]})
    digests = TensorDigests(checkpoint.infos)
    for leaf in added:
        digests.add("w", leaf * LEAF, values[leaf * LEAF : (leaf + 1) * LEAF])
    digests.complete(checkpoint)
    assert digests.tensors() == digest_tensors(checkpoint)


def test_the_digest_of_a_checkpoint_covers_names_and_tensors_in_any_order():
    tensors = {"b": "2" * 64, "a": "1" * 64}
    text = json.dumps(tensors, sort_keys=True, separators=(",", ":"))
    assert checkpoint_digest(tensors) == hashlib.sha256(text.encode()).hexdigest()
    assert checkpoint_digest(dict(reversed(tensors.items()))) == checkpoint_digest(tensors)
    assert checkpoint_digest({"b": "2" * 64, "c": "1" * 64}) != checkpoint_digest(tensors)
