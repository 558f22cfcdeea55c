"""Running pre-passes: round by round, all that are due together in one pass over the models."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.engine.chunks import BASE, Chunk
from mergegrid.engine.cutting import ChunkRange, cut_tensor, tasks
from mergegrid.engine.prepass import (
    FOLD_CHUNK,
    SAMPLE_CHUNK,
    CountUntil,
    Fold,
    Histogram,
    PerChunk,
    Prepass,
    Round,
    Rounds,
)
from mergegrid.engine.workers import Workers, WorkerState

# Samples of so many elements of tensors are one task: with shorter ones, threads would mostly wait
# for each other.
_SAMPLED_TASK = 1 << 26

ScopedPrepass = tuple[Hashable, Prepass]
"""A pre-pass and the scope in which its key is unique: see `BoundRecipe.scope`."""
ResultKey = tuple[Hashable, Hashable, str]
"""Scope and key of a pre-pass, and one of its tensors."""
PrepassResults = dict[ResultKey, Any]


@dataclass
class _Running:
    """A pre-pass that has no result yet."""

    scope: Hashable
    prepass: Prepass
    rounds: Rounds
    round: Round
    counts: NDArray[np.int64] | None
    """One row per thread, for a `Histogram`."""
    values: list[Any]
    lacking: int = 0
    """Number that a `CountUntil` still lacks."""

    def outcome(self) -> Any:
        return self.values if self.counts is None else (self.counts.sum(axis=0), self.values)

    def names(self) -> tuple[str, ...]:
        """The tensors that the round covers."""
        if isinstance(self.round, PerChunk) and self.round.at:
            return (self.round.at[0],)
        return self.prepass.names

    def measures(self, name: str, start: int) -> bool:
        """Whether the round measures the chunk of a tensor that starts at an element."""
        if isinstance(self.round, CountUntil):
            return self.lacking > 0
        return not isinstance(self.round, PerChunk) or self.round.at in (None, (name, start))

    def measure(self, chunk: Chunk, thread: int) -> Any:
        assert not isinstance(self.round, Fold)
        if isinstance(self.round, Histogram):
            assert self.counts is not None
            return chunk.name, chunk.start, self.round.measure(chunk, self.counts[thread])
        if isinstance(self.round, CountUntil):
            return chunk.name, chunk.start, self.round.measure(chunk)
        return self.round.measure(chunk)

    def add(self, value: Any) -> None:
        if isinstance(self.round, CountUntil):
            if self.lacking <= 0:
                return
            self.lacking -= value[2]
        self.values.append(value)


class PrepassRunner:
    """Runs pre-passes over some models and stores their results."""

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        results: PrepassResults,
        workers: Workers,
        chunk_size: int,
        whole_rows: bool,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._models, self._results, self._workers = models, results, workers
        self._chunk_size, self._whole_rows, self._progress = chunk_size, whole_rows, progress

    def run(self, prepasses: Sequence[ScopedPrepass]) -> None:
        """Run pre-passes that do not depend on each other; those with a result are skipped."""
        unknown = {
            (scope, prepass.key, prepass.names): (scope, prepass)
            for scope, prepass in prepasses
            if (scope, prepass.key, prepass.names[0]) not in self._results
        }
        started = [self._start(scope, prepass) for scope, prepass in unknown.values()]
        pending = [running for running in started if running]
        while pending:
            self._measure([one for one in pending if not isinstance(one.round, Fold)])
            self._fold([one for one in pending if isinstance(one.round, Fold)])
            # The outcome of a round is sorted and searched: work for all threads.
            continued = self._workers.map(
                lambda _, running: self._advance(running, running.outcome()), pending
            )
            pending = [running for running, more in zip(pending, continued, strict=True) if more]

    def _start(self, scope: Hashable, prepass: Prepass) -> _Running | None:
        idle = PerChunk(lambda _: None)
        running = _Running(scope, prepass, prepass.rounds(), idle, None, [])
        return running if self._advance(running, None) else None

    def _advance(self, running: _Running, outcome: Any) -> bool:
        """Send the outcome of a round; returns whether there is another round."""
        try:
            # NaN and infinities of a model are named when its tensor is merged.
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                running.round = running.rounds.send(outcome)
        except StopIteration as stop:
            for name in running.prepass.names:
                self._results[running.scope, running.prepass.key, name] = stop.value
            return False
        running.values, running.counts, running.lacking = [], None, 0
        if isinstance(running.round, CountUntil):
            running.lacking = running.round.enough
        if isinstance(running.round, Histogram):
            running.counts = np.zeros((self._workers.threads, running.round.length), np.int64)
        return True

    def _fold(self, pending: Sequence[_Running]) -> None:
        """Run rounds that go through whole tensors, one tensor per thread."""
        infos, by_tensor = self._models[BASE].infos, _by_tensor(pending)

        def work(state: WorkerState, name: str) -> tuple[int, list[Any]]:
            rounds = [running.round for running in by_tensor[name]]
            folds = [(one, one.start()) for one in rounds if isinstance(one, Fold)]
            count = 0
            for _, start, stop in cut_tensor(name, infos[name], FOLD_CHUNK, whole_rows=True):
                state.ops.restart()
                chunk = Chunk(self._models, name, start, stop, state.ops)
                for fold, value in folds:
                    fold.add(value, chunk)
                count += chunk.bytes_read
            return count, [value for _, value in folds]

        names = [name for name in infos if name in by_tensor]
        for name, (count, values) in zip(names, self._workers.map(work, names), strict=True):
            for running, value in zip(by_tensor[name], values, strict=True):
                running.add(value)
            self._progress(count)

    def _measure(self, pending: Sequence[_Running]) -> None:
        by_tensor = _by_tensor(pending)
        infos = self._models[BASE].infos
        names = [name for name in infos if name in by_tensor]
        # Part of a row is no use where rows must be whole.
        samples = {name: 0 if self._whole_rows else _sample(by_tensor[name]) for name in names}

        def work(state: WorkerState, task: list[ChunkRange]) -> tuple[int, list[Any]]:
            measured: list[tuple[_Running, Any]] = []
            count = 0
            for name, start, stop in task:
                state.ops.restart()
                # A sample must not favor small tensors: every chunk gives the same share.
                share = samples[name] / SAMPLE_CHUNK if samples[name] else 1
                end = start + math.ceil((stop - start) * share)
                chunk = Chunk(self._models, name, start, end, state.ops)
                for running in by_tensor[name]:
                    if running.measures(name, start):
                        measured.append((running, running.measure(chunk, state.number)))
                count += chunk.bytes_read
            return count, measured

        whole = [name for name in names if not samples[name]]
        sampled = [name for name in names if samples[name]]
        bundles = chain(
            tasks(infos, whole, self._chunk_size, self._whole_rows),
            tasks(infos, sampled, SAMPLE_CHUNK, whole_rows=False, size=_SAMPLED_TASK),
        )
        for count, measured in self._workers.map(work, bundles):
            for running, value in measured:
                running.add(value)
            self._progress(count)


def _by_tensor(pending: Sequence[_Running]) -> dict[str, list[_Running]]:
    """Pre-passes by the tensors that their round covers."""
    by_tensor: dict[str, list[_Running]] = {}
    for running in pending:
        for name in running.names():
            by_tensor.setdefault(name, []).append(running)
    return by_tensor


def _sample(running: Sequence[_Running]) -> int:
    """Elements of each chunk of a tensor that suffice for these pre-passes; 0 for all."""
    sizes = [one.round.sample if isinstance(one.round, PerChunk) else None for one in running]
    return max(size or 0 for size in sizes) if all(sizes) else 0


def about_single_tensors(
    steps: Iterable[Sequence[ScopedPrepass]], names: Iterable[str]
) -> list[list[ScopedPrepass]]:
    """The pre-passes of each step that cover exactly one tensor, among these tensors."""
    chosen = set(names)
    return [
        [
            (scope, prepass)
            for scope, prepass in step
            if len(prepass.names) == 1 and prepass.names[0] in chosen
        ]
        for step in steps
    ]


def before_windows(steps: Sequence[Sequence[ScopedPrepass]]) -> list[list[ScopedPrepass]]:
    """The pre-passes that must run before tensors can be handled window by window.

    These are all pre-passes over several tensors and, because their chunks may need them, all
    pre-passes over single tensors in the steps before.
    """
    wide = [[(scope, one) for scope, one in step if len(one.names) > 1] for step in steps]
    last = max((number for number, step in enumerate(wide) if step), default=0)
    return [list(step) for step in steps[:last]] + wide[last:]
