"""The budget of a pass: threads, memory and bytes, known and printed before the work starts."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.engine.bound_recipe import BoundRecipe
from mergegrid.engine.cutting import WINDOW, chunk_length
from mergegrid.engine.engine import HISTOGRAMS, Engine, EngineOptions, joint_steps
from mergegrid.engine.memory import available, resident
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.engine.prepass import FOLD_CHUNK
from mergegrid.engine.thresholds import LISTED, LISTED_FROM
from mergegrid.errors import ConfigError
from mergegrid.extras import require
from mergegrid.kernels.compiled import product_loop, program_loop

_HISTOGRAM_BYTES = 8 << 16
# What a pre-pass keeps of a chunk: a few counts in an array, with its name.
_COUNTED_BYTES = 500
# Bytes of an element as float32.
_FLOAT = 4
# Arrays that hold a list while it is joined and sorted.
_SORTING_ARRAYS = 4
# A GPU needs long chunks: between shorter ones it is idle.
_CUDA_CHUNK_SIZE = 1 << 24
# Float32 arrays for ranks and probabilities in float64, or for rows times matrices.
_ARRAYS_OF_ROWS = 20
# Growth of the interpreter and its libraries while they work.
_SLACK = 64 << 20
# Share of the available memory that outputs may fill as page cache. By default Linux makes writers
# wait once a fifth of it has not reached the disk.
_CACHED = 1 / 4


@dataclass(frozen=True)
class Budget:
    """How a pass is carried out, and its cost."""

    options: EngineOptions
    memory: int
    """Upper bound of memory in bytes, interpreter included."""
    reads: int
    """Bytes of the models that are read; more where a threshold needs further passes."""
    writes: int
    """Bytes that are written."""
    cached: bool
    """Whether outputs may stay in the page cache, for whoever reads them next."""

    def __str__(self) -> str:
        bypass = "" if self.cached else ", bypassing the page cache"
        return (
            f"{self.options.threads} threads, at most {self.memory / 1e6:,.0f} MB of memory; "
            f"{self.reads / 1e9:,.2f} GB to read, {self.writes / 1e9:,.2f} GB to write{bypass}"
        )


def plan_budget(
    engine: Engine,
    recipes: Sequence[BoundRecipe],
    infos: Mapping[str, TensorInfo],
    threads: int | None,
    max_memory: int | None,
    device: str,
    held: int = 0,
) -> Budget:
    """Choose threads and chunk size, and compute the cost.

    Args:
        engine: the engine.
        recipes: recipes that are merged in one pass.
        infos: tensors of each output.
        threads: number of threads; one per processor if None.
        max_memory: memory limit in bytes.
        device: `cpu` or `cuda`.
        held: bytes of merged tensors that stay in memory.

    Raises:
        ConfigError: the device is not available, or `max_memory` is too small for the shortest
            chunks of one thread.
    """
    options = options_for(device, threads)
    chunk_size, count = options.chunk_size, options.threads
    whole_rows = any(recipe.whole_rows for recipe in recipes)
    prepasses = _open_prepasses(recipes)
    program_loop()  # It stays in memory.
    opened = sum(model.open_bytes for model in engine.models.values())
    if opened:
        product_loop()
    fixed = resident() + held + _SLACK + _digests(engine, recipes)
    # Each thread computes the matrices of one tensor.
    matrices = sum(
        recipe.method.matrix_bytes(engine.base.infos, len(recipe.experts), engine.statistics)
        for recipe in recipes
    )

    def needs(count: int, chunk_size: int) -> int:
        infos = engine.base.infos.values()
        longest = max(chunk_length(info, chunk_size, whole_rows) for info in infos)
        per_thread = longest * _bytes_of_rows(recipes) + matrices + opened
        if matrices:
            # Buffers have the length of the longest chunk that a thread had; of these, one array at
            # a time is also held as float64.
            longest = max(longest, *(chunk_length(info, FOLD_CHUNK, True) for info in infos))
            per_thread += 2 * _FLOAT * longest
        per_thread += longest * _bytes_of_element(engine, recipes)
        shared = fixed
        if prepasses.any:
            # What one thread lists before the others know of it.
            per_thread += longest * _FLOAT * (2 + prepasses.wide + prepasses.narrow)
            shared += max(HISTOGRAMS, prepasses.wide * count) * _HISTOGRAM_BYTES
            shared += _lists(engine, prepasses, chunk_size, whole_rows)
            shared += _sorting(engine, prepasses, count)
        return shared + count * per_thread

    if max_memory is not None:
        while chunk_size > GRAIN and needs(count, chunk_size) > max_memory:
            chunk_size //= 2
        while count > 1 and needs(count, chunk_size) > max_memory:
            count -= 1
        if needs(count, chunk_size) > max_memory:
            raise ConfigError(
                f"--max-memory {max_memory / 1e6:,.0f} MB is too small: one thread needs "
                f"{needs(1, chunk_size) / 1e6:,.0f} MB; raise it, or merge fewer models at a time"
            )
    size = sum(model.read_bytes(name) for model in engine.models.values() for name in infos)
    passes = 1 + max(sum(map(bool, recipe.prepasses())) for recipe in recipes)
    writes = len(recipes) * sum(info.bytes for info in infos.values())
    return Budget(
        options=replace(options, threads=count, chunk_size=chunk_size),
        memory=needs(count, chunk_size),
        reads=passes * size,
        writes=writes,
        cached=writes <= _CACHED * available(),
    )


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # Not every system can bind a process to some of them.


def options_for(device: str, threads: int | None = None) -> EngineOptions:
    """Engine options for a device, by default with as many threads as help.

    Raises:
        ConfigError: the device is not available.
        MissingLibraryError: the device needs torch, which is not installed.
    """
    if device == "cpu":
        return EngineOptions(threads or processors())
    # torch takes seconds to import, and merging on the CPU does not need it.
    require("torch", "torch", "merge on the cpu, which gives the same bits")
    from mergegrid.engine.ops.torch_operations import TorchOperations, check_device

    check_device(device)
    return EngineOptions(threads or 2, _CUDA_CHUNK_SIZE, partial(TorchOperations, device))


def _bytes_of_element(engine: Engine, recipes: Sequence[BoundRecipe]) -> int:
    """Memory of a thread per element of a chunk: what is read and stored."""
    experts = max(len(recipe.experts) for recipe in recipes)
    statistics = max(len(recipe.statistics) for recipe in recipes)
    further = sum(model.arrays - 1 for model in engine.models.values())
    read, stored = 1 + experts + further + statistics, max(len(recipes), experts + 1)
    # A buffer for one more array is allocated while the old buffers still exist.
    return _FLOAT * max(2 * read, read + stored + 1)


def _bytes_of_rows(recipes: Sequence[BoundRecipe]) -> int:
    """Memory of a thread per element of a chunk of whole rows: what is sorted or multiplied."""
    if not any(recipe.whole_rows for recipe in recipes):
        return 0
    experts = max(len(recipe.experts) for recipe in recipes)
    return _FLOAT * (_ARRAYS_OF_ROWS + experts * len(recipes))


def _digests(engine: Engine, recipes: Sequence[BoundRecipe]) -> int:
    """Memory of the digests of all leaves of inputs and outputs."""
    leaves = sum(-(-info.count // GRAIN) for info in engine.base.infos.values())
    return 64 * leaves * (len(engine.models) + len(recipes))


@dataclass(frozen=True)
class _OpenPrepasses:
    """Number of pre-passes that are open at a time."""

    wide: int
    """Over several tensors."""
    narrow: int
    """Over one tensor, for every tensor."""

    @property
    def any(self) -> bool:
        return bool(self.wide or self.narrow)


def _open_prepasses(recipes: Sequence[BoundRecipe]) -> _OpenPrepasses:
    prepasses = {
        (scope, prepass.key, prepass.names)
        for step in joint_steps(recipes)
        for scope, prepass in step
    }
    wide = sum(len(names) > 1 for _, _, names in prepasses)
    narrow = Counter(names for _, _, names in prepasses if len(names) == 1)
    return _OpenPrepasses(wide, max(narrow.values(), default=0))


def _lists(engine: Engine, prepasses: _OpenPrepasses, chunk_size: int, whole_rows: bool) -> int:
    """Memory of the elements that pre-passes list, and of what they keep of each chunk.

    Samples take less and are gone before; where chunks hold whole rows, up to twice as much.
    """
    sizes = [info.count for info in engine.base.infos.values()]
    # A window of tensors ends with the one that fills it.
    window = min(WINDOW, sum(sizes)) + max(sizes)
    wide = prepasses.wide * LISTED * (2 if whole_rows else 1)
    narrow = prepasses.narrow * (window // LISTED_FROM)
    counted = prepasses.wide * sum(sizes) + prepasses.narrow * window
    return _FLOAT * (wide + narrow) + counted // chunk_size * _COUNTED_BYTES


def _sorting(engine: Engine, prepasses: _OpenPrepasses, threads: int) -> int:
    """Memory of the lists that threads join and sort, one list per thread at a time."""
    sizes = [info.count for info in engine.base.infos.values()]
    wide = min(threads, prepasses.wide) * min(sum(sizes) // LISTED_FROM, LISTED)
    narrow = threads * bool(prepasses.narrow) * min(max(sizes) // LISTED_FROM, LISTED)
    return _FLOAT * _SORTING_ARRAYS * max(wide, narrow)
