"""The streaming writer: safetensors shards whose headers are known before the first tensor.

Files get their full size at once, so a disk that is too full is detected before any work. Chunks
are then written in place, in any order and from any thread.

Files that are, with others, too large for the page cache can bypass it. Otherwise they would use
new memory for every page, evict the inputs, and make the writer wait for the disk anyway.
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

# Bytes written to a file between requests to drop it from the page cache.
_DROP_INTERVAL = 1 << 24


class ShardWriter:
    """Writes the tensors of one checkpoint into a folder.

    Args:
        folder: folder to write to.
        infos: tensors, in the order in which they are stored.
        shard_size: maximum bytes of tensors per file, unless a single tensor is larger.
        cached: whether written data may stay in the page cache, for whoever reads it next.
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
        self._locations: dict[str, tuple[int, int]] = {}
        self._shards = plan_shards(infos, shard_size)
        self._descriptors: list[int] = []
        self.files: dict[str, dict[str, Any]] = {}
        """Size of each shard, and SHA-256 of its header."""

    def open(self) -> None:
        """Create the files with their headers.

        Raises:
            CheckpointError: the disk has too little free space.
        """
        for file, names in self._shards.items():
            header = safetensors_files.header({name: self.infos[name] for name in names})
            size = len(header) + sum(self.infos[name].bytes for name in names)
            self.files[file] = {"bytes": size, "header": hashlib.sha256(header).hexdigest()}
            path = self._folder / file
            with _explain_errors(path, size):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                self._descriptors.append(descriptor)
                fsync.allocate(descriptor, size)
                write_all(descriptor, header, 0)
            offset = len(header)
            for name in names:
                self._locations[name] = descriptor, offset
                offset += self.infos[name].bytes
        if len(self._shards) > 1:
            self._write_index()

    def write(self, name: str, start: int, stored: Stored) -> None:
        """Write a chunk of a tensor, already rounded to its dtype."""
        descriptor, offset = self._locations[name]
        begin = offset + start * stored.itemsize
        end = begin + stored.nbytes
        with _explain_errors(self._folder, stored.nbytes):
            write_all(descriptor, stored.view(np.uint8).data, begin)
        if not self._cached and begin // _DROP_INTERVAL != end // _DROP_INTERVAL:
            _drop_from_page_cache(descriptor)
        self._digests.add(name, start, stored)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            descriptor = self._descriptors.pop()
            if not self._cached:
                _drop_from_page_cache(descriptor)
            os.close(descriptor)

    def tensors(self) -> dict[str, str]:
        """The digest of each tensor, once everything is written."""
        return self._digests.tensors()

    def _write_index(self) -> None:
        weight_map = {name: file for file, names in self._shards.items() for name in names}
        total = sum(info.bytes for info in self.infos.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=2) + "\n"
        path = self._folder / safetensors_files.INDEX
        with _explain_errors(path, len(text)):
            path.write_text(text, encoding="utf-8")


def plan_shards(infos: Mapping[str, TensorInfo], size: int) -> dict[str, list[str]]:
    """Assign tensors to files: in order, as many as fit into `size` bytes, at least one."""
    shards: list[list[str]] = []
    free = 0
    for name, info in infos.items():
        if not shards or info.bytes > free:
            shards.append([])
            free = size
        shards[-1].append(name)
        free -= info.bytes
    if len(shards) == 1:
        return {safetensors_files.SINGLE: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write bytes to a place in a file, however many calls it takes."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _drop_from_page_cache(descriptor: int) -> None:
    """Ask for cached pages to be written, and dropped where they already are."""
    # Advice only; not every system knows or follows it.
    with suppress(OSError, AttributeError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _explain_errors(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        disk = os.statvfs(path.parent)
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}): it needs {size / 1e6:,.1f} MB and "
            f"{disk.f_bavail * disk.f_frsize / 1e6:,.1f} MB are free; free some space or write "
            "elsewhere"
        ) from error
