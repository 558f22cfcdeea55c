"""Digests of tensors that many threads read or write, run by run, in any order.

A tensor is hashed in leaves of 65,536 elements with XXH3-128; its digest is the SHA-256 of its
dtype, shape and leaves. So it can be made in one pass over runs, and depends neither on their
length nor on how tensors are spread over files. A checkpoint's digest covers the names and digests
of its tensors.

Limits: XXH3 finds damage, which is random, and not forgery; it costs a quarter of a hash that does.
"""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from xxhash import xxh3_128_digest

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.hashing import canonical_json, digest

#: Elements of a leaf.
LEAF = 1 << 16
_SIZE = 16


class TensorDigests:
    """Digests of the tensors of one checkpoint, filled in by runs that start at leaves."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self._infos = infos
        self._leaves = {
            name: bytearray(_SIZE * -(-info.count // LEAF)) for name, info in infos.items()
        }

    def add(self, name: str, start: int, stored: Stored) -> None:
        """Take a run of elements as stored; it ends with a leaf, or with the tensor."""
        assert start % LEAF == 0, f"runs start at multiples of {LEAF}, got {start}"
        raw = stored.view(np.uint8).data
        step = LEAF * stored.itemsize
        leaves = self._leaves[name]
        for number, offset in enumerate(range(0, len(raw), step), start=start // LEAF):
            leaf = xxh3_128_digest(raw[offset : offset + step])
            leaves[number * _SIZE : (number + 1) * _SIZE] = leaf

    def complete(self, checkpoint: Checkpoint) -> None:
        """Read those tensors that were not added, or not to their end."""
        for name, info in self._infos.items():
            leaves = self._leaves[name]
            added = (leaves[at : at + _SIZE] for at in range(0, len(leaves), _SIZE))
            if all(map(any, added)):
                continue
            room = np.empty(min(16 * LEAF, info.count), info.dtype.numpy)
            for start in range(0, info.count, room.size):
                stop = min(start + room.size, info.count)
                self.add(name, start, checkpoint.read(name, start, stop, room[: stop - start]))

    def tensors(self) -> dict[str, str]:
        """Digest of each tensor: 64 hexadecimal digits."""
        return {name: self._tensor(name) for name in self._leaves}

    def _tensor(self, name: str) -> str:
        info = self._infos[name]
        head = canonical_json([info.dtype.name, list(info.shape)]).encode()
        return sha256(head + bytes(self._leaves[name])).hexdigest()


def checkpoint_digest(tensors: Mapping[str, str]) -> str:
    """Digest of a checkpoint from those of its tensors: 64 hexadecimal digits."""
    return digest(dict(tensors))


def digest_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """Digests of the tensors of a checkpoint, read in small runs."""
    digests = TensorDigests(checkpoint.infos)
    digests.complete(checkpoint)
    return digests.tensors()
