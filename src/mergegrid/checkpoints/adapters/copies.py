"""Copies of the base in an adapter: the only proof that an adapter belongs to a base."""

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Floats, decode, encode

_CHUNK = 1 << 20


def is_copy(file: Checkpoint, key: str, base: Checkpoint, name: str) -> bool:
    """Whether a tensor begins with all elements of the base's, rounded to its own dtype.

    It may have more rows, as the embeddings of an adapter that added tokens have.
    """
    info, base_info = file.infos[key], base.infos[name]
    if info.shape[1:] != base_info.shape[1:] or info.count < base_info.count:
        return False
    for start in range(0, base_info.count, _CHUNK):
        stop = min(start + _CHUNK, base_info.count)
        copied = _read(file, key, info, start, stop)
        original = _read(base, name, base_info, start, stop)
        rounded = np.empty(stop - start, info.dtype.numpy)
        encode(original, info.dtype, rounded)
        decode(rounded, info.dtype, original)
        if not np.array_equal(copied, original):
            return False
    return True


def _read(checkpoint: Checkpoint, name: str, info: TensorInfo, start: int, stop: int) -> Floats:
    stored = checkpoint.read(name, start, stop, np.empty(stop - start, info.dtype.numpy))
    values = np.empty(stop - start, np.float32)
    decode(stored, info.dtype, values)
    return values
