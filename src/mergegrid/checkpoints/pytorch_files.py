"""PyTorch files: where the tensors lie, found without torch and without running foreign code.

A `pytorch_model.bin` is a zip file whose records are stored as they are:

    pytorch_model/data.pkl     {"lm_head.weight": a tensor over storage "0", ...}
    pytorch_model/data/0       the numbers of storage "0"
    pytorch_model/byteorder    little

A pickle is a program. Here it runs with nothing at hand but the few calls that torch writes for
tensors, and these only note down what they are given. The offset of a storage is looked up in the
zip file; torch itself, asked for offsets alone, computes them from the order of the records, which
is wrong in an archive that was packed again.
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
from mergegrid.checkpoints.location import Location, gather, parameters
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
"""What safetensors calls the type of a storage."""


def present(folder: Path) -> bool:
    """Whether a folder has weights of this kind."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def locate(folder: Path) -> dict[str, Location]:
    """Every parameter of a folder and where it lies.

    Raises:
        CheckpointError: a file is damaged, cut, lies outside the folder or lacks a tensor that
            the index places in it, is no zip file, or holds code, or a tensor is of a type that
            cannot be merged or does not lie in one piece.
    """
    return gather(folder, SINGLE, INDEX, locate_in_file)


def locate_in_file(path: Path) -> dict[str, Location]:
    """Every parameter of one file and where it lies; tied ones lie at the same place."""
    with path.open("rb") as file:
        start = file.read(len(_LOCAL_HEADER))
        if start != _LOCAL_HEADER:
            raise CheckpointError(
                f"{path} is no zip file, as torch 1.6 and later write (it starts with {start!r}); "
                "fetch it again, or load it with torch and save it as safetensors"
            )
        try:
            with ZipFile(file) as archive:
                records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
                _check_byte_order(path, archive, records)
                state = _unpickle(path, archive, records)
                return {
                    name: _place(path, file, records, name, entry)
                    for name, entry in parameters(state, path).items()
                }
        # A pickle is a program, and a damaged one can fail in all the ways that programs do.
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
                f"{path} is damaged or cut ({error!r}); fetch it again"
            ) from error


class _Storage(NamedTuple):
    """A record of numbers, which tensors share or divide among them."""

    kind: str
    key: str


class _Tensor(NamedTuple):
    """What a pickle says of a tensor."""

    code: str
    key: str
    first: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(
    storage: _Storage, first: int, shape: Any, stride: Any, grad: Any, hooks: Any, bits: Any = None
) -> _Tensor:
    if bits:
        raise ValueError(f"a tensor is a view that changes its numbers: {bits!r}")
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
    """Runs a pickle in which nothing can be called but what notes down tensors."""

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """One of the calls above, or the name of a type."""
        called = f"{module}.{name}"
        if (module, name) in _CALLS:
            # A wrapper of its own: a pickle can set attributes of whatever it is given.
            return partial(_CALLS[module, name])
        if _TYPE.fullmatch(called):
            return name
        raise CheckpointError(
            f"{self._path} holds code: it calls {called!r}, which no tensor needs; do not load "
            "it, use a safetensors version of the model or one from a source you trust"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor refers to."""
        what, kind, key, *_ = pid
        if what != "storage" or not str(kind).isidentifier():
            raise ValueError(f"a tensor lies in {what!r} of type {kind!r}")
        return _Storage(str(kind), str(key))


def _unpickle(path: Path, archive: ZipFile, records: dict[str, ZipInfo]) -> dict[str, Any]:
    record = _stored(path, records, "data.pkl")
    if record.file_size > _LONGEST_PICKLE:
        raise ValueError(f"data.pkl would take {record.file_size} bytes")
    state = _Unpickler(path, archive.read(record)).load()
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__} instead of tensors by name; "
            "save the model's state dict"
        )
    return {str(name): entry for name, entry in state.items()}


def _place(
    path: Path, file: IO[bytes], records: dict[str, ZipInfo], name: str, tensor: Any
) -> Location:
    if not isinstance(tensor, _Tensor):
        raise CheckpointError(
            f"{name} in {path} is no tensor but of type {type(tensor).__name__}; the file is more "
            "than a model's state dict: save that alone"
        )
    dtype = dtype_of(tensor.code, f"{name} in {path}")
    if not _is_contiguous(tensor):
        raise CheckpointError(
            f"{name} in {path} is a view with shape {tensor.shape} and strides {tensor.stride} "
            "that does not lie in one piece; load the model and save it as safetensors"
        )
    record = _stored(path, records, f"data/{tensor.key}")
    offset = _offset(file, record)
    place = Location(path, offset + tensor.first * dtype.size, tensor.shape, dtype)
    if min(tensor.first, *tensor.shape, 0) < 0 or place.end > offset + record.file_size:
        raise ValueError(f"{name} of shape {tensor.shape} does not fit its storage")
    return place


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
            "writes; fetch the original file"
        )
    return record


def _offset(file: IO[bytes], record: ZipInfo) -> int:
    """First byte of a record: behind its local header, whose padding only that header tells."""
    file.seek(record.header_offset)
    signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
    if signature != _LOCAL_HEADER:
        raise ValueError(f"{record.filename} has no header")
    return record.header_offset + 30 + int(name) + int(extra)


def _check_byte_order(path: Path, archive: ZipFile, records: dict[str, ZipInfo]) -> None:
    """Files older than torch 2.1 do not say theirs; torch takes them for little-endian too."""
    if "byteorder" not in records:
        return
    if archive.read(_stored(path, records, "byteorder")) != b"little":
        raise CheckpointError(
            f"{path} was written on a big-endian machine; load it with torch and save it as "
            "safetensors"
        )
