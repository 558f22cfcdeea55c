"""The streaming writer: shards of safetensors whose headers are known before the first tensor.

Files get their full size at once, so a disk that is too full is found out before any work. Runs
are then written in place, in any order and from any thread.

Files that, with others, are too large for the page cache can be kept out of it. It would take new
memory for every page, drive out the inputs, and make the writer wait for the disk all the same.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mergegrid import fsync
from mergegrid.checkpoints import safetensors_files
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import TensorDigests
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.errors import CheckpointError

# The page cache is asked to let go of a file whenever so many bytes more are written.
_LET_GO_EVERY = 1 << 24


class ShardWriter:
    """Writes the tensors of one checkpoint into a folder.

    Args:
        folder: where the files go.
        infos: tensors, in the order in which they are stored.
        shard_size: bytes of tensors in a file, at most, where it holds more than one.
        cached: whether the page cache may keep what is written, for who reads it next.
    """

    def __init__(
        self,
        folder: Path,
        infos: Mapping[str, TensorInfo],
        shard_size: int,
        cached: bool = True,
    ) -> None:
        self.infos = infos
        self._folder, self._cached = folder, cached
        self._digests = TensorDigests(infos)
        self._places: dict[str, tuple[int, int]] = {}
        self._shards = plan_shards(infos, shard_size)
        self._descriptors: list[int] = []
        self.files: dict[str, dict[str, Any]] = {}
        """Size and SHA-256 of the header of each shard."""

    def open(self) -> None:
        """Make the files and their headers.

        Raises:
            CheckpointError: the disk has no room for them.
        """
        for file, names in self._shards.items():
            header = safetensors_files.header({name: self.infos[name] for name in names})
            size = len(header) + sum(self.infos[name].bytes for name in names)
            self.files[file] = {"bytes": size, "header": hashlib.sha256(header).hexdigest()}
            path = self._folder / file
            with _room_for(path, size):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                self._descriptors.append(descriptor)
                fsync.allocate(descriptor, size)
                _write(descriptor, header, 0)
            offset = len(header)
            for name in names:
                self._places[name] = descriptor, offset
                offset += self.infos[name].bytes
        if len(self._shards) > 1:
            self._write_index()

    def write(self, name: str, start: int, stored: Stored) -> None:
        """Take elements of a tensor, rounded to its dtype."""
        descriptor, offset = self._places[name]
        begin = offset + start * stored.itemsize
        end = begin + stored.nbytes
        with _room_for(self._folder, stored.nbytes):
            _write(descriptor, stored.view(np.uint8).data, begin)
        if not self._cached and begin // _LET_GO_EVERY != end // _LET_GO_EVERY:
            _let_go(descriptor)
        self._digests.add(name, start, stored)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            descriptor = self._descriptors.pop()
            if not self._cached:
                _let_go(descriptor)
            os.close(descriptor)

    def tensors(self) -> dict[str, str]:
        """Digest of each tensor, once all is written."""
        return self._digests.tensors()

    def _write_index(self) -> None:
        weight_map = {name: file for file, names in self._shards.items() for name in names}
        total = sum(info.bytes for info in self.infos.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=2) + "\n"
        path = self._folder / safetensors_files.INDEX
        with _room_for(path, len(text)):
            path.write_text(text, encoding="utf-8")


def plan_shards(infos: Mapping[str, TensorInfo], size: int) -> dict[str, list[str]]:
    """Tensors of each file: in order, as many as fit into `size` bytes, one at least."""
    shards: list[list[str]] = []
    room = 0
    for name, info in infos.items():
        if not shards or info.bytes > room:
            shards.append([])
            room = size
        shards[-1].append(name)
        room -= info.bytes
    if len(shards) == 1:
        return {safetensors_files.SINGLE: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _let_go(descriptor: int) -> None:
    """Have what is cached of a file written, and forgotten where that has been done."""
    # It is advice, which not every system knows or takes.
    with suppress(OSError, AttributeError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _room_for(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = os.statvfs(path.parent)
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}): {size / 1e6:,.1f} MB are wanted and "
            f"{free.f_bavail * free.f_frsize / 1e6:,.1f} MB free; make room or write elsewhere"
        ) from error
