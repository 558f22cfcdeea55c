"""A base with a LoRA adapter as a checkpoint, whose deltas come straight from the adapter.

The delta of a plain adapter is scale * B * A, never base + delta - base, which would hold the
rounding of the base. With DoRA, V = base + scale * B * A, and row i of the expert is
m_i V_i / |V_i|: its delta is scale * B * A + (m_i / |V_i| - 1) V_i. Norms are summed in float64.
"""

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.adapters.adapter import Adapter
from mergegrid.checkpoints.adapters.low_rank import LowRank
from mergegrid.checkpoints.checkpoint import Change, Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, Floats, Stored, decode
from mergegrid.kernels.product import Product

_FLOAT32 = DTYPES["float32"]
_UNCHANGED = Change()
# Elements of the blocks of rows whose norms are summed together.
_BLOCK = 1 << 18


class AdaptedCheckpoint(Checkpoint):
    """The tensors of a base, changed by an adapter.

    A thread holds the two matrices of the tensor that it worked on last.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        infos = dict(base.infos)
        for name, key in adapter.replaced.items():
            infos[name] = adapter.file.infos[key]
        for name in (*adapter.entries, *adapter.rows):
            infos[name] = TensorInfo(infos[name].shape, _FLOAT32)
        super().__init__(infos)
        self.base, self.adapter = base, adapter
        self._open = threading.local()
        self._growths: dict[str, Floats] = {}
        self._locks = {name: threading.Lock() for name in adapter.entries}

    def stored_name(self, name: str) -> str:
        """The name of a tensor in the file of the base."""
        return self.base.stored_name(name)

    def change(self, name: str) -> Change | None:
        """How a tensor follows from the base's; None if another tensor replaces it or its rows."""
        adapter = self.adapter
        if name in adapter.replaced or name in adapter.rows:
            return None
        return self._change(name) if name in adapter.entries else _UNCHANGED

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Elements of a tensor; where the adapter changes it, float32 values of base plus delta."""
        adapter = self.adapter
        key = adapter.replaced.get(name)
        if name not in adapter.entries and name not in adapter.rows:
            source, stored_name = (adapter.file, key) if key else (self.base, name)
            stored: Stored = source.read(stored_name, start, stop, buffer)
            return stored
        values = self._anchor(name, start, stop)
        if name in adapter.rows:
            self._set_rows(name, start, values)
            return values
        change, delta = self._change(name), np.empty(stop - start, np.float32)
        assert change.product is not None, f"{name} has no product"
        change.product.elements(start, delta)
        if change.growth is not None:
            growth = np.empty(stop - start, np.float32)
            change.growth.elements(start, growth)
            delta += growth * (values + delta)
        return np.where(delta == 0, values, values + delta)

    def read_bytes(self, name: str) -> int:
        """Bytes of the adapter that are read for a tensor; with trained rows, of the base too."""
        adapter = self.adapter
        size = adapter.entries[name].bytes if name in adapter.entries else 0
        if name in adapter.replaced:
            size += adapter.file.infos[adapter.replaced[name]].bytes
        if name in adapter.rows:
            size += self.base.infos[name].bytes
        return size

    @property
    def open_bytes(self) -> int:
        """Memory of a thread for the matrices of the largest change, while they are opened."""
        return max((_open_bytes(change) for change in self.adapter.entries.values()), default=0)

    @property
    def arrays(self) -> int:
        """One for the delta, and with DoRA one for the growth."""
        return 2 if self.adapter.config.use_dora else 1

    def _change(self, name: str) -> Change:
        if getattr(self._open, "name", None) != name:
            self._open.name = self._open.change = None
            entry = self.adapter.entries[name]
            product = Product(*entry.factors(), entry.scale)
            self._open.change = Change(product, self._growth(name, entry, product))
            self._open.name = name
        change: Change = self._open.change
        return change

    def _growth(self, name: str, entry: LowRank, product: Product) -> Product | None:
        """For DoRA m_i / |V_i| - 1 of every element's row or column; computed by one thread."""
        if entry.direction is None:
            return None
        with self._locks[name]:
            if name not in self._growths:
                norms = np.sqrt(self._squares(name, entry, product))
                growth = entry.direction.magnitude.astype(np.float64) / norms - 1
                self._growths[name] = growth.astype(np.float32)
        growth = self._growths[name]
        if entry.direction.axis == 0:
            return Product(growth[:, None], np.ones((1, entry.columns), np.float32))
        return Product(np.ones((entry.rows, 1), np.float32), growth[None, :])

    def _squares(self, name: str, entry: LowRank, product: Product) -> NDArray[np.float64]:
        """Sums of squares of the rows or columns of V."""
        assert entry.direction is not None, f"{name} has no magnitudes"
        by_row = entry.direction.axis == 0
        sums = []
        for start, stop in _blocks(entry):
            values, delta = self._anchor(name, start, stop), np.empty(stop - start, np.float32)
            product.elements(start, delta)
            values = np.where(delta == 0, values, values + delta)
            squares = np.square(values.reshape(-1, entry.columns), dtype=np.float64)
            sums.append(squares.sum(axis=1 if by_row else 0))
        return np.concatenate(sums) if by_row else np.sum(sums, axis=0)

    def _anchor(self, name: str, start: int, stop: int) -> Floats:
        """Elements of the base, or of what replaces it, to which a change is added."""
        key = self.adapter.replaced.get(name)
        source, stored_name = (self.adapter.file, key) if key else (self.base, name)
        dtype = source.infos[stored_name].dtype
        values = np.empty(stop - start, np.float32)
        buffer = np.empty(stop - start, dtype.numpy)
        decode(source.read(stored_name, start, stop, buffer), dtype, values)
        return values

    def _set_rows(self, name: str, start: int, values: Floats) -> None:
        """Put the rows of trained tokens where they lie in a range of elements."""
        key, ids = self.adapter.rows[name]
        rows, width = self.adapter.file[key], self.infos[name].shape[1]
        for row, token in zip(rows, ids, strict=True):
            low, high = max(token * width, start), min((token + 1) * width, start + values.size)
            if low < high:
                values[low - start : high - start] = row[low - token * width : high - token * width]


def _blocks(entry: LowRank) -> Iterator[tuple[int, int]]:
    """Ranges of elements that hold whole rows, of a length that depends on nothing else."""
    step = max(_BLOCK // entry.columns, 1) * entry.columns
    for start in range(0, entry.rows * entry.columns, step):
        yield start, min(start + step, entry.rows * entry.columns)


def _open_bytes(change: LowRank) -> int:
    """Memory for the matrices of a change: as they are read, and packed for the product."""
    size = change.read_bytes + Product.bytes(change.rows, change.rank, change.columns)
    if change.direction:
        # The growth as a product of rank 1, and blocks of float64 while norms are summed.
        size += Product.bytes(change.rows, 1, change.columns) + 8 * 4 * (_BLOCK + change.columns)
    return size
