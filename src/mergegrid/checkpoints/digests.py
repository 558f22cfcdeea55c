"""Tensor digests that many threads can compute chunk by chunk, in any order.

A tensor is hashed in leaves of 65,536 elements with XXH3-128; its digest is the SHA-256 of its
dtype, shape and leaf hashes. So it takes one pass over chunks, and depends neither on their length
nor on how tensors are distributed over files. A checkpoint's digest covers the names and digests
of its tensors.

XXH3 detects random damage, not forgery; a cryptographic hash would cost four times as much.
"""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from xxhash import xxh3_128_digest

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.hashing import canonical_json, digest

#: Elements in a leaf.
LEAF = 1 << 16
_HASH_SIZE = 16


class TensorDigests:
    """Digests of the tensors of one checkpoint, filled in by chunks that start at leaves."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self._infos = infos
        self._leaves = {
            name: bytearray(_HASH_SIZE * -(-info.count // LEAF)) for name, info in infos.items()
        }

    def add(self, name: str, start: int, stored: Stored) -> None:
        """Add a chunk of elements as stored, which ends at a leaf or at the end of the tensor."""
        assert start % LEAF == 0, f"chunks must start at multiples of {LEAF}, got {start}"
        raw = stored.view(np.uint8).data
        step = LEAF * stored.itemsize
        leaves = self._leaves[name]
        for number, offset in enumerate(range(0, len(raw), step), start=start // LEAF):
            leaf = xxh3_128_digest(raw[offset : offset + step])
            leaves[number * _HASH_SIZE : (number + 1) * _HASH_SIZE] = leaf

    def complete(self, checkpoint: Checkpoint) -> None:
        """Read and add the tensors that have not been added completely."""
        for name, info in self._infos.items():
            leaves = self._leaves[name]
            hashes = (leaves[at : at + _HASH_SIZE] for at in range(0, len(leaves), _HASH_SIZE))
            if all(map(any, hashes)):
                continue
            buffer = np.empty(min(16 * LEAF, info.count), info.dtype.numpy)
            for start in range(0, info.count, buffer.size):
                stop = min(start + buffer.size, info.count)
                self.add(name, start, checkpoint.read(name, start, stop, buffer[: stop - start]))

    def tensors(self) -> dict[str, str]:
        """The digest of each tensor, as 64 hexadecimal digits."""
        return {name: self._tensor(name) for name in self._leaves}

    def _tensor(self, name: str) -> str:
        info = self._infos[name]
        head = canonical_json([info.dtype.name, list(info.shape)]).encode()
        return sha256(head + bytes(self._leaves[name])).hexdigest()


def checkpoint_digest(tensors: Mapping[str, str]) -> str:
    """The digest of a checkpoint, from the digests of its tensors, as 64 hexadecimal digits."""
    return digest(dict(tensors))


def digest_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """Read a checkpoint and return the digest of each tensor."""
    digests = TensorDigests(checkpoint.infos)
    digests.complete(checkpoint)
    return digests.tensors()
