"""The streaming writer and the page cache."""

import ctypes
import mmap
import os
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import LEAF
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.writer import ShardWriter

#: 64 MiB of float32: an odd tensor first, so that the other does not start at a page.
INFOS = {
    "odd": TensorInfo((3,), DTYPES["float32"]),
    "large": TensorInfo((256, LEAF), DTYPES["float32"]),
}
RUN = 4 * LEAF


def cached_bytes(path):
    """How much of a file is in the page cache."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as memory:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
        return mmap.PAGESIZE * sum(page & 1 for page in pages)


def write(folder, cached):
    """Write INFOS, waiting for the disk before the last run; the file and what it holds."""
    values = np.arange(256 * LEAF, dtype=np.float32)
    writer = ShardWriter(folder, INFOS, 1 << 40, cached)
    writer.open()
    path = folder / "model.safetensors"
    writer.write("odd", 0, np.float32([1, 2, 3]))
    for start in range(0, values.size, RUN):
        if start == values.size - RUN:
            # On a slow disk much would still wait, and what waits cannot be forgotten.
            with path.open("rb") as file:
                os.fsync(file.fileno())
        writer.write("large", start, values[start : start + RUN])
    writer.close()
    return path, values


def file_system(path):
    command = ["stat", "--file-system", "--format=%T", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_written_stays_in_the_page_cache_only_where_it_may(tmp_path, cached):
    if file_system(tmp_path) == "tmpfs":
        pytest.skip(f"{tmp_path} is on tmpfs, which is the page cache itself")
    path, values = write(tmp_path, cached)
    kept = cached_bytes(path)
    assert kept > 60e6 if cached else kept < 20e6
    found = load_file(path)
    assert found["odd"].tolist() == [1, 2, 3]
    assert np.array_equal(found["large"].reshape(-1), values)


def test_files_are_the_same_whether_they_may_stay_cached_or_not(tmp_path):
    written = []
    for cached in (True, False):
        folder = tmp_path / str(cached)
        folder.mkdir()
        written.append(write(folder, cached)[0].read_bytes())
    assert written[0] == written[1]
