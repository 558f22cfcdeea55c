"""The plan of a pass: threads, memory and bytes, known and said before the work starts."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.chunk_ranges import WINDOW, run_length
from mergegrid.engine.engine import HISTOGRAMS, Engine, Settings, in_step
from mergegrid.engine.memory import available, resident
from mergegrid.engine.merge import Merge
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.engine.thresholds import LISTED, LISTED_FROM
from mergegrid.errors import ConfigError
from mergegrid.kernels.compiled import program_loop

_HISTOGRAM_BYTES = 8 << 16
# What a survey keeps of a run: a few counts in an array, with its name.
_COUNTED_BYTES = 500
# A GPU wants long runs: shorter ones leave it waiting for the next.
_CUDA_CHUNK = 1 << 24
# Ranks and probabilities in float64, or rows times matrices.
_ARRAYS_OF_ROWS = 20
# What the interpreter and its libraries grow by while they work.
_SLACK = 64 << 20
# Share of the available memory that outputs may fill as page cache. By default Linux makes writers
# wait once a fifth of it has not reached the disk.
_CACHED = 1 / 4


@dataclass(frozen=True)
class Plan:
    """How a pass will be run, and what it costs."""

    settings: Settings
    memory: int
    """Bytes that are never exceeded, interpreter included."""
    reads: int
    """Bytes of the models that are gone through; more where a selection needs further passes."""
    writes: int
    """Bytes that are written."""
    cached: bool
    """Whether what is written may stay in the page cache, for who reads it next."""

    def __str__(self) -> str:
        past = "" if self.cached else ", too much for the page cache to keep"
        return (
            f"{self.settings.threads} threads, at most {self.memory / 1e6:,.0f} MB of memory; "
            f"{self.reads / 1e9:,.2f} GB to read, {self.writes / 1e9:,.2f} GB to write{past}"
        )


def plan(
    engine: Engine,
    merges: Sequence[Merge],
    infos: Mapping[str, TensorInfo],
    threads: int | None,
    max_memory: int | None,
    device: str,
) -> Plan:
    """Choose threads and run length, and state what they need.

    Raises:
        ConfigError: the device is not there, or `max_memory` does not even hold the shortest runs
            of one thread.
    """
    settings = settings_on(device, threads)
    chunk, wanted = settings.chunk, settings.threads
    rowwise = any(merge.rowwise for merge in merges)
    surveys = _open_surveys(merges)
    program_loop()  # It stays in memory.
    fixed = resident() + _SLACK + _digests(engine, merges) + _matrices(engine, merges)

    def needs(count: int, chunk: int) -> int:
        longest = max(run_length(info, chunk, rowwise) for info in engine.base.infos.values())
        each, shared = longest * _bytes_of_element(merges), fixed
        if surveys.any:
            # What one thread lists before the others know of it.
            each += longest * 4 * (2 + surveys.wide + surveys.narrow)
            shared += max(HISTOGRAMS, surveys.wide * count) * _HISTOGRAM_BYTES
            shared += _lists(engine, surveys, chunk, rowwise) + _sorted(engine, surveys, count)
        return shared + count * each

    if max_memory is not None:
        while chunk > GRAIN and needs(wanted, chunk) > max_memory:
            chunk //= 2
        while wanted > 1 and needs(wanted, chunk) > max_memory:
            wanted -= 1
        if needs(wanted, chunk) > max_memory:
            raise ConfigError(
                f"a memory of {max_memory / 1e6:,.0f} MB was given and one thread needs "
                f"{needs(1, chunk) / 1e6:,.0f} MB; give that much, or merge fewer models at a time"
            )
    size = sum(model.infos[name].bytes for model in engine.models.values() for name in infos)
    passes = 1 + max(sum(map(bool, merge.surveys())) for merge in merges)
    writes = len(merges) * sum(info.bytes for info in infos.values())
    return Plan(
        settings=replace(settings, threads=wanted, chunk=chunk),
        memory=needs(wanted, chunk),
        reads=passes * size,
        writes=writes,
        cached=writes <= _CACHED * available(),
    )


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # Not every system lets a process be bound to some of them.


def settings_on(device: str, threads: int | None = None) -> Settings:
    """How a pass is run on a device, by default with all processors that help it.

    Raises:
        ConfigError: the device is not there.
    """
    if device == "cpu":
        return Settings(threads or processors())
    # torch takes seconds to import, and merging on the CPU does without.
    from mergegrid.engine.ops.torch_operations import TorchOperations, check_device

    check_device(device)
    return Settings(threads or 2, _CUDA_CHUNK, partial(TorchOperations, device))


def _bytes_of_element(merges: Sequence[Merge]) -> int:
    """Memory of a thread for each element of a run: what is read, stored and, for rows, sorted."""
    experts = max(len(merge.experts) for merge in merges)
    statistics = experts
    read, stored = 1 + experts + statistics, max(len(merges), experts + 1)
    # Room for one more array is made beside the room that there was.
    arrays = max(2 * read, read + stored + 1)
    if any(merge.rowwise for merge in merges):
        arrays += _ARRAYS_OF_ROWS + experts * len(merges)
    return 4 * arrays


def _digests(engine: Engine, merges: Sequence[Merge]) -> int:
    leaves = sum(-(-info.count // GRAIN) for info in engine.base.infos.values())
    return 64 * leaves * (len(engine.models) + len(merges))


@dataclass(frozen=True)
class _Surveys:
    """How many surveys are open at a time."""

    wide: int
    """About several tensors."""
    narrow: int
    """About one tensor, of every tensor."""

    @property
    def any(self) -> bool:
        return bool(self.wide or self.narrow)


def _open_surveys(merges: Sequence[Merge]) -> _Surveys:
    surveys = {
        (asker, survey.key, survey.names) for step in in_step(merges) for asker, survey in step
    }
    wide = sum(len(names) > 1 for _, _, names in surveys)
    about_one = Counter(names for _, _, names in surveys if len(names) == 1)
    return _Surveys(wide, max(about_one.values(), default=0))


def _lists(engine: Engine, surveys: _Surveys, chunk: int, rowwise: bool) -> int:
    """Memory of what surveys list, and of what they know of each run.

    Samples take less, and are gone before; but where runs hold whole rows, up to twice as much.
    """
    sizes = [info.count for info in engine.base.infos.values()]
    # A window of tensors ends with the one that fills it.
    window = min(WINDOW, sum(sizes)) + max(sizes)
    wide = surveys.wide * LISTED * (2 if rowwise else 1)
    narrow = surveys.narrow * (window // LISTED_FROM)
    counted = surveys.wide * sum(sizes) + surveys.narrow * window
    return 4 * (wide + narrow) + counted // chunk * _COUNTED_BYTES


def _sorted(engine: Engine, surveys: _Surveys, threads: int) -> int:
    """Memory of the lists that threads join and sort, each one at a time."""
    sizes = [info.count for info in engine.base.infos.values()]
    wide = min(threads, surveys.wide) * min(sum(sizes) // LISTED_FROM, LISTED)
    narrow = threads * bool(surveys.narrow) * min(max(sizes) // LISTED_FROM, LISTED)
    return 4 * 4 * max(wide, narrow)


def _matrices(engine: Engine, merges: Sequence[Merge]) -> int:
    if not any(merge.recipe.method.kind == "regmean" for merge in merges):
        return 0
    sizes = [
        math.prod(info.shape) * 8
        for statistics in engine.statistics.values()
        for info in statistics.infos.values()
    ]
    return max(sizes, default=0) * (2 * len(engine.statistics) + 4)
