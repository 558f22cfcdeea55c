"""Pieces of a sentencepiece model, read from its protocol buffer without that library.

A model is a `ModelProto` (google/sentencepiece, `sentencepiece_model.proto`), whose field 1 repeats
pieces: text (1), score (2) and type (3). Ids are positions.
"""

from collections.abc import Iterator
from pathlib import Path

from mergegrid.errors import CheckpointError

_PIECE, _TEXT = 1, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_pieces(path: Path) -> dict[str, int]:
    """The id of each piece of a sentencepiece model.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or holds no pieces.
    """
    try:
        pieces = [
            text.decode("utf-8")
            for field, piece in _fields(path.read_bytes())
            if field == _PIECE and isinstance(piece, bytes)
            for inner, text in _fields(piece)
            if inner == _TEXT and isinstance(text, bytes)
        ]
    except (OSError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} is not a sentencepiece model ({error}); download the model again"
        ) from error
    if not pieces:
        raise CheckpointError(f"{path} holds no sentencepiece pieces; download the model again")
    return {piece: number for number, piece in enumerate(pieces)}


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Numbers and values of the fields of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"truncated at byte {len(data)}")
        yield field, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
