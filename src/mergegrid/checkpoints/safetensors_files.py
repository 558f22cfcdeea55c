"""Safetensors: where the tensors lie, from the header alone, after checking all it says.

A file is eight bytes with the length of the header, the header, and the tensors:

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
from mergegrid.checkpoints.location import Location, gather, parameters
from mergegrid.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000


def present(folder: Path) -> bool:
    """Whether a folder has weights of this kind."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def locate(folder: Path) -> dict[str, Location]:
    """Every parameter of a folder and where it lies.

    Raises:
        CheckpointError: a file is damaged, cut, lies outside the folder or lacks a tensor that
            the index places in it, or a tensor is of a type that cannot be merged.
    """
    return gather(folder, SINGLE, INDEX, locate_in_file)


def locate_in_file(path: Path) -> dict[str, Location]:
    """Every parameter of one file and where it lies."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise _damaged(path, f"its header would take {length} of {size} bytes")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        spans = sorted(
            ((name, _span(entry)) for name, entry in header.items()), key=lambda item: item[1]
        )
        places = {
            name: _place(path, 8 + length, name, entry)
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
        raise _damaged(path, f"its header cannot be understood: {error!r}") from error
    end = 0
    for name, (start, stop) in spans:
        if start != end:
            raise _damaged(path, f"{name} starts at byte {start} of the data instead of {end}")
        end = stop
    if 8 + length + end != size:
        raise _damaged(path, f"its header describes {8 + length + end} bytes and it has {size}")
    return places


def _place(path: Path, data: int, name: str, entry: Mapping[str, Any]) -> Location:
    shape = tuple(int(length) for length in entry["shape"])
    if any(length < 0 for length in shape):
        raise ValueError(f"{name} has shape {shape}")
    start, stop = _span(entry)
    place = Location(path, data + start, shape, dtype_of(entry["dtype"], f"{name} in {path}"))
    if place.end != data + stop:
        raise ValueError(f"{name} of shape {shape} takes {stop - start} bytes")
    return place


def _span(entry: Mapping[str, Any]) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    return int(start), int(stop)


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or cut: {what}; fetch or make it again")


def header_digest(path: Path) -> str:
    """SHA-256 of all bytes of a file that come before its tensors."""
    with path.open("rb") as file:
        length = file.read(8)
        # A damaged length may be beyond all memory.
        text = file.read(min(int.from_bytes(length, "little"), path.stat().st_size))
    return hashlib.sha256(length + text).hexdigest()


def header(infos: Mapping[str, TensorInfo]) -> bytes:
    """The first bytes of a file that holds these tensors, one after the other in this order."""
    offset = 0
    entries: dict[str, Any] = {}
    for name, info in infos.items():
        entries[name] = {
            "dtype": info.dtype.safetensors,
            "shape": list(info.shape),
            "data_offsets": [offset, offset + math.prod(info.shape) * info.dtype.size],
        }
        offset = entries[name]["data_offsets"][1]
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":"))
    padded = text.encode() + b" " * (-len(text.encode()) % 8)
    return len(padded).to_bytes(8, "little") + padded
