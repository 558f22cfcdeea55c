"""The plan of a pass: threads, memory and bytes, known and said before the work starts."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.errors import ConfigError
from mergegrid.merging.arrays.operations import GRAIN
from mergegrid.merging.engine import HISTOGRAMS, Engine, Settings, in_step
from mergegrid.merging.merge import Merge
from mergegrid.merging.selection import LISTED, LISTED_FROM
from mergegrid.merging.spans import WINDOW, run_length

_HISTOGRAM_BYTES = 8 << 16
# What a survey keeps of a run: a few counts in an array, with its name.
_COUNTED_BYTES = 500
# A GPU wants long runs: shorter ones leave it waiting for the next.
_CUDA_CHUNK = 1 << 24
# Ranks and probabilities in float64, or rows times matrices.
_ARRAYS_OF_ROWS = 20
# Numbers that a survey lists, in int64.
_ARRAYS_LISTED = 2
# What the interpreter and its libraries grow by while they work.
_SLACK = 64 << 20


@dataclass(frozen=True)
class Plan:
    """How a pass will be run, and what it costs."""

    settings: Settings
    memory: int
    """Bytes that are never exceeded, interpreter included."""
    reads: int
    """Bytes of the models that are gone through; surveys may need less."""
    writes: int
    """Bytes that are written."""

    def __str__(self) -> str:
        return (
            f"{self.settings.threads} threads, at most {self.memory / 1e6:,.0f} MB of memory; "
            f"{self.reads / 1e9:,.2f} GB to read, {self.writes / 1e9:,.2f} GB to write"
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
        ConfigError: the device is not there, or `max_memory` does not even hold one thread's runs.
    """
    settings = settings_on(device, threads)
    chunk, wanted = settings.chunk, settings.threads
    rowwise = any(merge.rowwise for merge in merges)
    longest = max(run_length(info, chunk, rowwise) for info in engine.base.infos.values())
    each = longest * _bytes_of_element(merges)
    fixed = _resident() + _SLACK + _digests(engine, merges) + _matrices(engine, merges)
    fixed += _surveys(engine, merges, chunk)

    def needs(count: int) -> int:
        return fixed + count * each

    if max_memory is not None:
        while wanted > 1 and needs(wanted) > max_memory:
            wanted -= 1
        if needs(wanted) > max_memory:
            raise ConfigError(
                f"a memory of {max_memory / 1e6:,.0f} MB was given and one thread needs "
                f"{needs(1) / 1e6:,.0f} MB; give that much, or merge fewer models at a time"
            )
    size = sum(model.infos[name].bytes for model in engine.models.values() for name in infos)
    passes = 1 + max(sum(_passes(step) for step in merge.surveys()) for merge in merges)
    return Plan(
        settings=replace(settings, threads=wanted),
        memory=needs(wanted),
        reads=passes * size,
        writes=len(merges) * sum(info.bytes for info in infos.values()),
    )


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def settings_on(device: str, threads: int | None = None) -> Settings:
    """How a pass is run on a device, by default with all processors that help it.

    Raises:
        ConfigError: the device is not there.
    """
    if device == "cpu":
        return Settings(threads or processors())
    # torch takes seconds to import, and merging on the CPU does without.
    from mergegrid.merging.arrays.torch_operations import TorchOperations, check_device

    check_device(device)
    return Settings(threads or 2, _CUDA_CHUNK, partial(TorchOperations, device))


def _bytes_of_element(merges: Sequence[Merge]) -> int:
    """Memory of a thread for each element of a run: what is read, stored and, for rows, sorted."""
    experts = max(len(merge.experts) for merge in merges)
    statistics = experts
    arrays = 1 + experts + statistics + max(len(merges), experts + 1)
    if any(any(merge.surveys()) for merge in merges):
        arrays += _ARRAYS_LISTED
    if any(merge.rowwise for merge in merges):
        arrays += _ARRAYS_OF_ROWS + experts * len(merges)
    return 4 * arrays


def _digests(engine: Engine, merges: Sequence[Merge]) -> int:
    leaves = sum(-(-info.count // GRAIN) for info in engine.base.infos.values())
    return 64 * leaves * (len(engine.models) + len(merges))


def _surveys(engine: Engine, merges: Sequence[Merge], chunk: int) -> int:
    """Memory of surveys: histograms, samples, and what each run counted."""
    open_at_once = {
        (asker, survey.key, survey.names) for step in in_step(merges) for asker, survey in step
    }
    if not open_at_once:
        return 0
    sizes = [info.count for info in engine.base.infos.values()]
    wide = sum(len(names) > 1 for _, _, names in open_at_once)
    about_one = Counter(names for _, _, names in open_at_once if len(names) == 1)
    # A window of tensors ends with the one that fills it.
    window = min(WINDOW, sum(sizes)) + max(sizes)
    narrow = max(about_one.values(), default=0)
    # Samples are smaller than lists, and gone before. One list at a time is sorted.
    listed = wide * LISTED + narrow * min(window // LISTED_FROM, 2 * LISTED) + 4 * LISTED
    counted = wide * sum(sizes) + narrow * window
    return HISTOGRAMS * _HISTOGRAM_BYTES + 4 * listed + counted // chunk * _COUNTED_BYTES


def _matrices(engine: Engine, merges: Sequence[Merge]) -> int:
    if not any(merge.recipe.method.kind == "regmean" for merge in merges):
        return 0
    sizes = [
        math.prod(info.shape) * 8
        for statistics in engine.statistics.values()
        for info in statistics.infos.values()
    ]
    return max(sizes, default=0) * (2 * len(engine.statistics) + 4)


def _passes(step: Sequence[tuple[object, object]]) -> int:
    return 3 if step else 0


def _resident() -> int:
    """Memory that the process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
