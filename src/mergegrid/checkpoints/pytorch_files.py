"""PyTorch files: tensor locations, without torch and without executing code from the file.

A `pytorch_model.bin` is a zip file with uncompressed records:

    pytorch_model/data.pkl     {"lm_head.weight": a tensor over storage "0", ...}
    pytorch_model/data/0       the elements of storage "0"
    pytorch_model/byteorder    little

A pickle is a program. Here it can call only the few functions that torch writes for tensors, which
are replaced by ones that record their arguments. The offset of a storage is looked up in the zip
file; torch itself, when asked for offsets only, computes them from the order of the records, which
is wrong for a repacked archive.
"""

import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from mergegrid.checkpoints.dtypes import dtype_of
from mergegrid.checkpoints.location import Location, locate_all, parameters
from mergegrid.errors import CheckpointError

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
_LONGEST_PICKLE = 100_000_000
_LOCAL_HEADER = b"PK\x03\x04"
_CODES = {
    "FloatStorage": "F32",
    "BFloat16Storage": "BF16",
    "HalfStorage": "F16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""Safetensors dtype codes by storage type."""


def present(folder: Path) -> bool:
    """Whether a folder has weights in this format."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def locate(folder: Path) -> dict[str, Location]:
    """Locate every parameter of a folder.

    Raises:
        CheckpointError: a file is damaged, truncated, outside the folder, not a zip file, contains
            code or lacks a tensor that the index assigns to it; or a tensor is not contiguous or
            has a dtype that cannot be merged.
    """
    return locate_all(folder, SINGLE, INDEX, locate_in_file)


def locate_in_file(path: Path) -> dict[str, Location]:
    """Locate every parameter of one file; tied parameters have the same location."""
    with path.open("rb") as file:
        start = file.read(len(_LOCAL_HEADER))
        if start != _LOCAL_HEADER:
            raise CheckpointError(
                f"{path} is not a zip file, the format of torch 1.6 and later (it starts with "
                f"{start!r}); download it again, or load it with torch and save it as safetensors"
            )
        try:
            with ZipFile(file) as archive:
                records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
                _check_byte_order(path, archive, records)
                state = _unpickle(path, archive, records)
                return {
                    name: _location(path, file, records, name, entry)
                    for name, entry in parameters(state, path).items()
                }
        # A damaged pickle can fail in every way a program can.
        except (
            BadZipFile,
            pickle.UnpicklingError,
            struct.error,
            ArithmeticError,
            AttributeError,
            EOFError,
            LookupError,
            MemoryError,
            OSError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise CheckpointError(
                f"{path} is damaged or truncated ({error!r}); download it again"
            ) from error


class _Storage(NamedTuple):
    """A record of elements, which one or more tensors use."""

    kind: str
    key: str


class _Tensor(NamedTuple):
    """The description of a tensor in a pickle."""

    code: str
    key: str
    first: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(
    storage: _Storage, first: int, shape: Any, stride: Any, grad: Any, hooks: Any, bits: Any = None
) -> _Tensor:
    if bits:
        raise ValueError(f"a tensor is a view that modifies its elements: {bits!r}")
    code = _CODES.get(storage.kind, storage.kind)
    return _Tensor(code, storage.key, first, tuple(shape), tuple(stride))


def _typed_tensor(
    storage: _Storage,
    first: int,
    shape: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: str,
    bits: Any = None,
) -> _Tensor:
    return _tensor(_Storage(dtype, storage.key), first, shape, stride, grad, hooks, bits)


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
_TYPE = re.compile(r"(torch|torch\.storage)\.(\w+Storage|bool|(u?int|b?float|complex)\d+\w*)")


class _Unpickler(pickle.Unpickler):
    """Loads a pickle that can call only the functions in `_CALLS`."""

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the functions in `_CALLS`, or the name of a type."""
        full_name = f"{module}.{name}"
        if (module, name) in _CALLS:
            # A new wrapper each time, because a pickle can set attributes of what it receives.
            return partial(_CALLS[module, name])
        if _TYPE.fullmatch(full_name):
            return name
        raise CheckpointError(
            f"{self._path} contains code: it calls {full_name!r}, which no tensor needs; do not "
            "load it; use a safetensors version of the model or a source that you trust"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a tensor refers to."""
        category, kind, key, *_ = pid
        if category != "storage" or not str(kind).isidentifier():
            raise ValueError(f"a tensor is stored in {category!r} of type {kind!r}")
        return _Storage(str(kind), str(key))


def _unpickle(path: Path, archive: ZipFile, records: dict[str, ZipInfo]) -> dict[str, Any]:
    record = _stored(path, records, "data.pkl")
    if record.file_size > _LONGEST_PICKLE:
        raise ValueError(f"data.pkl claims {record.file_size} bytes")
    state = _Unpickler(path, archive.read(record)).load()
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} contains a {type(state).__name__}, not tensors by name; save the model's "
            "state dict"
        )
    return {str(name): entry for name, entry in state.items()}


def _location(
    path: Path, file: IO[bytes], records: dict[str, ZipInfo], name: str, tensor: Any
) -> Location:
    if not isinstance(tensor, _Tensor):
        raise CheckpointError(
            f"{name} in {path} is of type {type(tensor).__name__}, not a tensor; save the model's "
            "state dict alone"
        )
    dtype = dtype_of(tensor.code, f"{name} in {path}")
    if not _is_contiguous(tensor):
        raise CheckpointError(
            f"{name} in {path} is a non-contiguous view with shape {tensor.shape} and strides "
            f"{tensor.stride}; load the model and save it as safetensors"
        )
    record = _stored(path, records, f"data/{tensor.key}")
    offset = _offset(file, record)
    location = Location(path, offset + tensor.first * dtype.size, tensor.shape, dtype)
    if min(tensor.first, *tensor.shape, 0) < 0 or location.end > offset + record.file_size:
        raise ValueError(f"{name} of shape {tensor.shape} does not fit into its storage")
    return location


def _is_contiguous(tensor: _Tensor) -> bool:
    expected = 1
    for length, step in reversed(list(zip(tensor.shape, tensor.stride, strict=True))):
        if length > 1 and step != expected:
            return 0 in tensor.shape
        expected *= length
    return True


def _stored(path: Path, records: dict[str, ZipInfo], name: str) -> ZipInfo:
    record = records[name]
    if record.compress_type != ZIP_STORED or record.flag_bits & 1:
        raise CheckpointError(
            f"{path} has a compressed or encrypted record, {record.filename!r}, which torch never "
            "writes; download the original file"
        )
    return record


def _offset(file: IO[bytes], record: ZipInfo) -> int:
    """Offset of a record's data: after its local header, which alone states its padding."""
    file.seek(record.header_offset)
    signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
    if signature != _LOCAL_HEADER:
        raise ValueError(f"{record.filename} has no header")
    return record.header_offset + 30 + int(name) + int(extra)


def _check_byte_order(path: Path, archive: ZipFile, records: dict[str, ZipInfo]) -> None:
    # Files older than torch 2.1 do not state it; torch also assumes little-endian.
    if "byteorder" not in records:
        return
    if archive.read(_stored(path, records, "byteorder")) != b"little":
        raise CheckpointError(
            f"{path} was written on a big-endian machine; load it with torch and save it as "
            "safetensors"
        )
