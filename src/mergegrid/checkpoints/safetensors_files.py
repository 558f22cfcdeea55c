"""Safetensors files: tensor locations from the header, which is fully validated.

A file consists of eight bytes with the length of the header, the header, and the tensors:

    {"lm_head.weight": {"dtype": "BF16", "shape": [32000, 2048], "data_offsets": [0, 131072000]},
     "__metadata__": {"format": "pt"}}
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import dtype_of
from mergegrid.checkpoints.location import Location, locate_all, parameters
from mergegrid.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000


def present(folder: Path) -> bool:
    """Whether a folder has weights in this format."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def locate(folder: Path) -> dict[str, Location]:
    """Locate every parameter of a folder.

    Raises:
        CheckpointError: a file is damaged, truncated, outside the folder or lacks a tensor that
            the index assigns to it, or a tensor has a dtype that cannot be merged.
    """
    return locate_all(folder, SINGLE, INDEX, locate_in_file)


def locate_in_file(path: Path) -> dict[str, Location]:
    """Locate every parameter of one file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise _damaged(path, f"its header claims {length} of {size} bytes")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        spans = sorted(
            ((name, _span(entry)) for name, entry in header.items()), key=lambda item: item[1]
        )
        locations = {
            name: _location(path, 8 + length, name, entry)
            for name, entry in parameters(header, path).items()
        }
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise _damaged(path, f"its header is invalid: {error!r}") from error
    end = 0
    for name, (start, stop) in spans:
        if start != end:
            raise _damaged(path, f"{name} starts at byte {start} of the data, not at {end}")
        end = stop
    if 8 + length + end != size:
        raise _damaged(path, f"its header describes {8 + length + end} bytes, but it has {size}")
    return locations


def _location(path: Path, data: int, name: str, entry: Mapping[str, Any]) -> Location:
    shape = tuple(int(length) for length in entry["shape"])
    if any(length < 0 for length in shape):
        raise ValueError(f"{name} has shape {shape}")
    start, stop = _span(entry)
    location = Location(path, data + start, shape, dtype_of(entry["dtype"], f"{name} in {path}"))
    if location.end != data + stop:
        raise ValueError(f"{name} of shape {shape} has {stop - start} bytes")
    return location


def _span(entry: Mapping[str, Any]) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    return int(start), int(stop)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or truncated: {reason}; download or rebuild the model"
    )


def header_digest(path: Path) -> str:
    """SHA-256 of all bytes before the tensors: the header and its length."""
    with path.open("rb") as file:
        length = file.read(8)
        # A damaged length may exceed all memory.
        text = file.read(min(int.from_bytes(length, "little"), path.stat().st_size))
    return hashlib.sha256(length + text).hexdigest()


def header(
    infos: Mapping[str, TensorInfo], size: int = 0, metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes before the tensors of a file that stores these tensors in this order.

    Args:
        infos: the tensors.
        size: the smallest number of bytes; spaces fill what the tensors do not need.
        metadata: entries of the metadata; by default those of a model.
    """
    offset = 0
    entries: dict[str, Any] = {}
    for name, info in infos.items():
        entries[name] = {
            "dtype": info.dtype.safetensors,
            "shape": list(info.shape),
            "data_offsets": [offset, offset + math.prod(info.shape) * info.dtype.size],
        }
        offset = entries[name]["data_offsets"][1]
    text = json.dumps(
        {"__metadata__": dict(metadata or {"format": "pt"}), **entries}, separators=(",", ":")
    )
    encoded = text.encode()
    padded = (encoded + b" " * (-len(encoded) % 8)).ljust(size - 8)
    return len(padded).to_bytes(8, "little") + padded
