"""Sizes of deltas, on which it depends whether DARE works (arXiv 2311.03099, section 4.6)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.dtypes import DTYPES, Dtype
from mergegrid.delta_reports.histograms import SIGNED_BINS, count_signed, deciles, histogram
from mergegrid.delta_reports.paper_range import LARGE, SHARE_SMALL, SMALL
from mergegrid.engine.chunks import BASE, Chunk
from mergegrid.engine.cutting import ChunkRange, tasks
from mergegrid.engine.engine import CHUNK_SIZE
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import HIGH_BINS, LOW_BITS
from mergegrid.engine.workers import Workers, WorkerState
from mergegrid.errors import CheckpointError

#: Quantiles by name, in thousandths.
QUANTILES = {f"q{percent:02d}": 10 * percent for percent in range(1, 100)} | {"q999": 999}
#: Dtypes that most merging programs round deltas to.
SHORT = ("bfloat16", "float16")
_EXPERT = "expert"
_FLOAT32 = DTYPES["float32"]


@dataclass(frozen=True)
class DeltaSizes:
    """Sizes of the deltas of one tensor or of the whole model."""

    tensor: str
    """Name of the tensor; `all` is the whole model."""
    n: int
    l1: float
    l2: float
    max: float
    small: int
    """Number of |delta| below SMALL."""
    large: int
    """Number of |delta| above LARGE."""
    zero: int
    """Number of deltas that are 0."""
    unchanged: int
    """Number of parameters equal to the base after base + delta is rounded to the output dtype."""
    quantiles: Mapping[str, float]
    """`q01` to `q99` and `q999`: off by less than 0.8 %."""
    lost: Mapping[str, int]
    """By dtype, number of non-zero deltas that vanish when base + delta is rounded to it."""
    lowest: float
    """The smallest delta with its sign."""
    highest: float
    """The largest delta with its sign."""
    deciles: Mapping[str, float]
    """`d10` to `d90` of the deltas with their signs: off by less than 0.8 %."""
    histogram: tuple[int, ...]
    """Counts of the deltas with their signs, in the bins of `delta_reports.histograms`."""

    @property
    def mean(self) -> float:
        """Mean of |delta|."""
        return self.l1 / self.n

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return self.l2 / float(self.n**0.5)

    def row(self) -> dict[str, str | int | float]:
        """The columns of the workflow's tables."""
        return {
            "tensor": self.tensor,
            "n": self.n,
            "mean": self.mean,
            "rms": self.rms,
            "max": self.max,
            SHARE_SMALL: self.small / self.n,
            **self.quantiles,
            "share_zero": self.zero / self.n,
            **{f"lost_in_{dtype}": count / self.n for dtype, count in self.lost.items()},
            "lowest": self.lowest,
            **self.deciles,
            "highest": self.highest,
        }


def delta_sizes(
    base: Checkpoint,
    expert: Checkpoint,
    output: Dtype | None = None,
    threads: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> list[DeltaSizes]:
    """Measure the deltas of the whole model, as tensor `all`, and of each tensor.

    Both models are read once, chunk by chunk; a histogram is kept of each tensor.

    Args:
        base: the base, whose tensors are measured.
        expert: a checkpoint with the same tensors.
        output: dtype that parameters are rounded to; by default that of each tensor of the base.
        threads: threads to use; they do not change a number.
        progress: called with the number of bytes of the models that have been processed.

    Raises:
        CheckpointError: a model cannot be read, or a delta is not finite.
    """
    models = {BASE: base, _EXPERT: expert}
    sizes = {name: sum(model.read_bytes(name) for model in models.values()) for name in base}

    def work(state: WorkerState, task: list[ChunkRange]) -> tuple[int, list[tuple[str, "_Sums"]]]:
        sums, count = [], 0
        for name, start, stop in task:
            state.ops.restart()
            chunk = Chunk(models, name, start, stop, state.ops)
            sums.append((name, _measure(chunk, output or base.infos[name].dtype)))
            read, whole = sizes[name], base.infos[name].count
            count += read * stop // whole - read * start // whole
        return count, sums

    def measured(workers: Workers) -> Iterator[tuple[str, "_Sums"]]:
        for count, sums in workers.map(work, tasks(base.infos, base, CHUNK_SIZE, whole_rows=False)):
            progress(count)
            yield from sums

    whole, tensors = _Sums(), []
    with Workers(threads, CpuOperations) as workers:
        current, tensor = "", _Sums()
        for name, sums in measured(workers):
            if name != current and tensor.n:
                tensors.append(tensor.sizes(current))
                tensor = _Sums()
            current = name
            tensor.add(sums)
            whole.add(sums)
        tensors.append(tensor.sizes(current))
    return [whole.sizes("all"), *tensors]


@dataclass
class _Sums:
    """Running sums, and a histogram over the leading bits of magnitudes, which sort like them."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    small: int = 0
    large: int = 0
    unchanged: int = 0
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(HIGH_BINS + 1, dtype=np.int64)
    )
    same: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SHORT), dtype=np.int64))
    lowest: float = np.inf
    highest: float = -np.inf
    signed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SIGNED_BINS, dtype=np.int64))

    def add(self, other: "_Sums") -> None:
        self.n += other.n
        self.total += other.total
        self.squares += other.squares
        self.largest = max(self.largest, other.largest)
        self.small += other.small
        self.large += other.large
        self.unchanged += other.unchanged
        self.histogram += other.histogram
        self.same += other.same
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        self.signed += other.signed

    def sizes(self, tensor: str) -> DeltaSizes:
        zero = int(self.histogram[HIGH_BINS])
        return DeltaSizes(
            tensor=tensor,
            n=self.n,
            l1=self.total,
            l2=self.squares**0.5,
            max=self.largest,
            small=self.small,
            large=self.large,
            zero=zero,
            unchanged=self.unchanged,
            quantiles=self._quantiles(),
            # Without a delta a parameter equals the base whatever the dtype.
            lost={name: int(same) - zero for name, same in zip(SHORT, self.same, strict=True)},
            lowest=self.lowest,
            highest=self.highest,
            deciles=deciles(self.signed, self.lowest, self.highest),
            histogram=histogram(self.signed),
        )

    def _quantiles(self) -> dict[str, float]:
        below = self.histogram[:HIGH_BINS].cumsum()
        # Rounded up in integers: 0.07 * 100 is more than 7.
        ranks = -(-np.array(list(QUANTILES.values())) * self.n // 1000)
        bins = np.searchsorted(below, ranks)
        # Bins of a 128th of an octave; every value in a bin counts as its middle.
        middle = (bins.astype(np.int32) << LOW_BITS) + (1 << (LOW_BITS - 1))
        values = np.where(bins == 0, 0.0, middle.astype(np.int32).view(np.float32))
        return {
            name: min(float(value), self.largest)
            for name, value in zip(QUANTILES, values, strict=True)
        }


def _measure(chunk: Chunk, output: Dtype) -> _Sums:
    ops, delta = chunk.ops, chunk.delta(_EXPERT)
    sums = _Sums(n=chunk.count, squares=float(ops.dots(delta, delta).sum()))
    ops.count_high(delta, sums.histogram)
    moved = ops.plus(chunk.base, delta, 1.0)
    dtypes = [output, *(DTYPES[name] for name in SHORT)]
    (deltas, finite), *stored = ops.store(
        [delta, *([chunk.base, moved] * len(dtypes))],
        [_FLOAT32, *(dtype for dtype in dtypes for _ in range(2))],
    )
    if not finite:
        raise CheckpointError(
            f"{chunk.name} has deltas that are not finite, first at element "
            f"{chunk.start + int(np.flatnonzero(~np.isfinite(deltas))[0])}; base or expert is "
            "damaged: download or train it again"
        )
    magnitudes = np.abs(deltas)
    sums.total = float(magnitudes.sum(dtype=np.float64))
    sums.largest = float(magnitudes.max())
    sums.small = int(np.count_nonzero(magnitudes < np.float32(SMALL)))
    sums.large = int(np.count_nonzero(magnitudes > np.float32(LARGE)))
    unchanged, *same = (
        int(np.count_nonzero(before == after))
        for (before, _), (after, _) in zip(stored[::2], stored[1::2], strict=True)
    )
    sums.unchanged, sums.same[:] = unchanged, same
    sums.lowest, sums.highest = float(deltas.min()), float(deltas.max())
    sums.signed += count_signed(deltas)
    return sums
