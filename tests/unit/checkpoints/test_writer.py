"""The streaming writer and the page cache."""

import ctypes
import errno
import mmap
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import LEAF
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.writer import ShardWriter, plan_shards

#: 64 MiB of float32: an odd tensor first, so that the other does not start at a page.
INFOS = {
    "odd": TensorInfo((3,), DTYPES["float32"]),
    "large": TensorInfo((256, LEAF), DTYPES["float32"]),
}


def cached_bytes(path):
    """How much of a file is in the page cache."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as memory:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
        return mmap.PAGESIZE * sum(page & 1 for page in pages)


def write(folder, cached, run=4 * LEAF):
    """Write INFOS, waiting for the disk before the last run; the file and what it holds."""
    values = np.arange(256 * LEAF, dtype=np.float32)
    writer = ShardWriter(folder, INFOS, 1 << 40, cached)
    writer.open()
    path = folder / "model.safetensors"
    writer.write("odd", 0, np.float32([1, 2, 3]))
    for start in range(0, values.size, run):
        if start == values.size - run:
            # On a slow disk much would still wait, and what waits cannot be forgotten.
            with path.open("rb") as file:
                os.fsync(file.fileno())
        writer.write("large", start, values[start : start + run])
    writer.close()
    return path, values


def can_forget(folder):
    """Whether the page cache forgets a file here when it is asked to, and tells."""
    path = folder / "scratch"
    path.write_bytes(bytes(1 << 20))
    before = cached_bytes(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    after = cached_bytes(path)
    path.unlink()
    return before == 1 << 20 and after == 0


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_written_stays_in_the_page_cache_only_where_it_may(tmp_path, cached):
    if not can_forget(tmp_path):
        pytest.skip(f"the file system of {tmp_path} has no page cache that forgets")
    path, values = write(tmp_path, cached)
    kept = cached_bytes(path)
    assert kept > 60e6 if cached else kept < 20e6
    found = load_file(path)
    assert found["odd"].tolist() == [1, 2, 3]
    assert np.array_equal(found["large"].reshape(-1), values)


@pytest.mark.parametrize(("run", "times"), [(4 * LEAF, 5), (128 * LEAF, 3)])
def test_the_page_cache_is_asked_to_let_go_while_files_are_written_and_in_the_end(
    tmp_path, monkeypatch, run, times
):
    asked = []
    monkeypatch.setattr("os.posix_fadvise", lambda *advice: asked.append(advice[1:]))
    write(tmp_path, cached=False, run=run)
    # After each 16 MiB, or each run that is longer, and before the file is closed.
    assert asked == [(0, 0, os.POSIX_FADV_DONTNEED)] * times


def test_a_system_that_takes_no_advice_is_no_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("os.posix_fadvise", refuse)
    path, values = write(tmp_path, cached=False)
    assert np.array_equal(load_file(path)["large"].reshape(-1), values)


def test_files_are_the_same_whether_they_may_stay_cached_or_not(tmp_path):
    written = []
    for cached in (True, False):
        folder = tmp_path / str(cached)
        folder.mkdir()
        written.append(write(folder, cached)[0].read_bytes())
    assert written[0] == written[1]


def test_shards_hold_as_many_tensors_as_fit_in_order_and_one_at_least():
    sizes = {"a": 2, "b": 2, "c": 3, "large": 9, "d": 1, "e": 4}
    infos = {name: TensorInfo((size,), DTYPES["float32"]) for name, size in sizes.items()}
    assert plan_shards(infos, 20) == {
        "model-00001-of-00004.safetensors": ["a", "b"],
        "model-00002-of-00004.safetensors": ["c"],
        "model-00003-of-00004.safetensors": ["large"],
        "model-00004-of-00004.safetensors": ["d", "e"],
    }
    assert plan_shards(infos, 84) == {"model.safetensors": list(sizes)}
