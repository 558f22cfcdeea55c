"""Rows by token: views of models whose embedding rows come in another order, or from elsewhere.

Rows are read from their source when they are needed, run by run of consecutive rows; nothing is
copied but the few rows that no file holds, such as means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergegrid.checkpoints.checkpoint import Change, Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import Dtype, Stored, decode, encode


@dataclass(frozen=True)
class RowRun:
    """Consecutive rows of a tensor, and the rows of the same tensor that they are read from."""

    start: int
    stop: int
    source: Checkpoint
    first: int
    """The row of the source that `start` is read from."""


def runs(rows: Mapping[int, tuple[Checkpoint, int]]) -> list[RowRun]:
    """Runs of rows in order, from the source and the row in it of each row."""
    joined: list[RowRun] = []
    for row in sorted(rows):
        source, at = rows[row]
        last = joined[-1] if joined else None
        if (
            last
            and last.source is source
            and last.stop == row
            and last.first + row - last.start == at
        ):
            joined[-1] = RowRun(last.start, row + 1, source, last.first)
        else:
            joined.append(RowRun(row, row + 1, source, at))
    return joined


def filled(mapped: Sequence[RowRun], checkpoint: Checkpoint, rows: int) -> list[RowRun]:
    """Runs over all rows: those given, and between them the rows of a checkpoint in place."""
    complete, start = [], 0
    for run in [*mapped, RowRun(rows, rows, checkpoint, rows)]:
        if run.start > start:
            complete.append(RowRun(start, run.start, checkpoint, start))
        complete += [run] if run.stop > run.start else []
        start = run.stop
    return complete


class RowMapped(Checkpoint):
    """A checkpoint in which the rows of some tensors come from elsewhere.

    Args:
        checkpoint: the model.
        infos: shape and dtype of the tensors with mapped rows.
        rows: runs that cover all rows of these tensors, in order.
    """

    def __init__(
        self, checkpoint: Checkpoint, infos: Mapping[str, TensorInfo], rows: Sequence[RowRun]
    ) -> None:
        super().__init__(checkpoint.infos | dict(infos))
        self._checkpoint, self._mapped, self._runs = checkpoint, set(infos), list(rows)
        self._starts = np.array([run.start for run in rows])

    def stored_name(self, name: str) -> str:
        """The name of a tensor in its file; empty if its rows are mapped."""
        return "" if name in self._mapped else self._checkpoint.stored_name(name)

    def change(self, name: str) -> Change | None:
        """How a tensor follows from the base's, unless its rows are mapped."""
        return None if name in self._mapped else self._checkpoint.change(name)

    def read_bytes(self, name: str) -> int:
        """Bytes that are read for a whole tensor."""
        if name in self._mapped:
            return self.infos[name].bytes
        return self._checkpoint.read_bytes(name)

    @property
    def open_bytes(self) -> int:
        """Memory that each thread holds besides chunks."""
        return self._checkpoint.open_bytes

    @property
    def arrays(self) -> int:
        """Number of arrays in memory for a chunk of a tensor."""
        return self._checkpoint.arrays

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Read elements of a tensor, each row from its source."""
        if name not in self._mapped:
            stored: Stored = self._checkpoint.read(name, start, stop, buffer)
            return stored
        info = self.infos[name]
        if stop <= start:
            return buffer
        width = info.count // info.shape[0]
        first = int(np.searchsorted(self._starts, start // width, side="right")) - 1
        for run in self._runs[first:]:
            if run.start * width >= stop:
                break
            _read_run(run, name, width, start, stop, info.dtype, buffer)
        return buffer


class KeptRows:
    """A sink that restores rows which no merge may change, such as those of one model's tokens.

    Args:
        sink: where merged chunks go.
        rows: the rows to restore, in every tensor of `names`.
        names: tensors with a row per token.
    """

    def __init__(self, sink: Any, rows: Sequence[RowRun], names: Sequence[str]) -> None:
        self.infos = sink.infos
        self._sink, self._rows, self._names = sink, rows, set(names)

    def write(self, name: str, start: int, stored: Stored) -> None:
        """Hand on elements of a tensor, kept rows in place of merged ones."""
        if name in self._names:
            info = self.infos[name]
            width, stop = info.count // info.shape[0], start + stored.size
            hit = [
                run for run in self._rows if run.start * width < stop and run.stop * width > start
            ]
            stored = stored.copy() if hit else stored
            for run in hit:
                _read_run(run, name, width, start, stop, info.dtype, stored)
        self._sink.write(name, start, stored)


def _read_run(
    run: RowRun, name: str, width: int, start: int, stop: int, dtype: Dtype, out: Stored
) -> None:
    """Fill the part of `out`, elements `start` to `stop` of a tensor, that a run covers."""
    begin, end = max(start, run.start * width), min(stop, run.stop * width)
    shift = (run.first - run.start) * width
    part = out[begin - start : end - start]
    info = run.source.infos[name]
    if info.dtype == dtype:
        part[:] = run.source.read(name, begin + shift, end + shift, part)
        return
    buffer = np.empty(end - begin, info.dtype.numpy)
    values = np.empty(end - begin, np.float32)
    decode(run.source.read(name, begin + shift, end + shift, buffer), info.dtype, values)
    encode(values, dtype, part)
