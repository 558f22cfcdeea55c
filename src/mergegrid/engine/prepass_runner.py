"""Answering surveys: round by round, all that are asked together in one pass."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.engine.chunk_ranges import Span, tasks
from mergegrid.engine.chunks import BASE, Run
from mergegrid.engine.merge import Answers
from mergegrid.engine.prepass import SAMPLED_RUN, Count, Each, Round, Rounds, Sum, Survey
from mergegrid.engine.workers import Desk, Workers

# Samples from so many elements of tensors are one task: with shorter ones, threads would mostly
# wait for each other.
_SAMPLED_TASK = 1 << 26

Asked = tuple[Hashable, Survey]
"""A survey and who asks."""


@dataclass
class _Open:
    """A survey that is not answered yet."""

    asker: Hashable
    survey: Survey
    rounds: Rounds
    round: Round
    counts: NDArray[np.int64] | None
    """One row for each thread, for a `Sum`."""
    values: list[Any]
    wanted: int = 0
    """What a `Count` still lacks."""

    def outcome(self) -> Any:
        return self.values if self.counts is None else (self.counts.sum(axis=0), self.values)

    def measure(self, run: Run, thread: int) -> Any:
        if isinstance(self.round, Sum):
            assert self.counts is not None
            return run.name, run.start, self.round.measure(run, self.counts[thread])
        if isinstance(self.round, Count):
            return run.name, run.start, self.round.measure(run)
        return self.round.measure(run)

    def concerns(self, name: str, start: int) -> bool:
        if isinstance(self.round, Count):
            return self.wanted > 0
        return not isinstance(self.round, Each) or self.round.at in (None, (name, start))

    def take(self, value: Any) -> None:
        if isinstance(self.round, Count):
            if self.wanted <= 0:
                return
            self.wanted -= value[2]
        self.values.append(value)


class Inquiry:
    """Answers surveys about some models."""

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        answers: Answers,
        workers: Workers,
        chunk: int,
        rowwise: bool,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._models, self._answers, self._workers = models, answers, workers
        self._chunk, self._rowwise, self._progress = chunk, rowwise, progress

    def ask(self, asked: Sequence[Asked]) -> None:
        """Answer surveys that do not depend on each other; what is known is not asked again."""
        unknown = {
            (asker, survey.key, survey.names): (asker, survey)
            for asker, survey in asked
            if (asker, survey.key, survey.names[0]) not in self._answers
        }
        opened = [self._open(asker, survey) for asker, survey in unknown.values()]
        pending = [each for each in opened if each]
        while pending:
            self._measure(pending)
            # What a round found is sorted and searched: work for all threads.
            further = self._workers.map(
                lambda _, each: self._advance(each, each.outcome()), pending
            )
            pending = [each for each, more in zip(pending, further, strict=True) if more]

    def _open(self, asker: Hashable, survey: Survey) -> _Open | None:
        rounds = survey.rounds()
        opened = _Open(asker, survey, rounds, Each(lambda _: None), None, [])
        return opened if self._advance(opened, None) else None

    def _advance(self, opened: _Open, outcome: Any) -> bool:
        """Send the outcome of a round; whether there is another."""
        try:
            opened.round = opened.rounds.send(outcome)
        except StopIteration as stop:
            for name in opened.survey.names:
                self._answers[opened.asker, opened.survey.key, name] = stop.value
            return False
        opened.values, opened.counts, opened.wanted = [], None, 0
        if isinstance(opened.round, Count):
            opened.wanted = opened.round.enough
        if isinstance(opened.round, Sum):
            opened.counts = np.zeros((self._workers.threads, opened.round.length), np.int64)
        return True

    def _measure(self, pending: Sequence[_Open]) -> None:
        concerned: dict[str, list[_Open]] = {}
        for each in pending:
            wanted = each.survey.names
            if isinstance(each.round, Each) and each.round.at:
                wanted = (each.round.at[0],)
            for name in wanted:
                concerned.setdefault(name, []).append(each)
        infos = self._models[BASE].infos
        names = [name for name in infos if name in concerned]
        # Part of a row is no use where rows must be whole.
        samples = {name: 0 if self._rowwise else _sample(concerned[name]) for name in names}

        def work(desk: Desk, task: list[Span]) -> tuple[int, list[tuple[_Open, Any]]]:
            found: list[tuple[_Open, Any]] = []
            count = 0
            for name, start, stop in task:
                desk.ops.restart()
                # A sample must not favour small tensors: every run gives its share.
                share = samples[name] / SAMPLED_RUN if samples[name] else 1
                end = start + math.ceil((stop - start) * share)
                run = Run(self._models, name, start, end, desk.ops)
                for each in concerned[name]:
                    if each.concerns(name, start):
                        found.append((each, each.measure(run, desk.number)))
                count += run.bytes_read
            return count, found

        whole = [name for name in names if not samples[name]]
        sampled = [name for name in names if samples[name]]
        bundles = chain(
            tasks(infos, whole, self._chunk, self._rowwise),
            tasks(infos, sampled, SAMPLED_RUN, rowwise=False, size=_SAMPLED_TASK),
        )
        for count, found in self._workers.map(work, bundles):
            for each, value in found:
                each.take(value)
            self._progress(count)


def _sample(surveys: Sequence[_Open]) -> int:
    """Elements of each run of a tensor that suffice for these surveys; 0 for all."""
    wanted = [each.round.sample if isinstance(each.round, Each) else None for each in surveys]
    return max(size or 0 for size in wanted) if all(wanted) else 0


def narrow(steps: Iterable[Sequence[Asked]], names: Iterable[str]) -> list[list[Asked]]:
    """The surveys of each step that are about one tensor, among these."""
    wanted = set(names)
    return [
        [
            (asker, survey)
            for asker, survey in step
            if len(survey.names) == 1 and survey.names[0] in wanted
        ]
        for step in steps
    ]


def before_windows(steps: Sequence[Sequence[Asked]]) -> list[list[Asked]]:
    """What must be asked before tensors can be taken window by window.

    That is every survey about several tensors, and, as its runs may need them, all surveys about
    single tensors in the steps before it.
    """
    wide = [[(asker, each) for asker, each in step if len(each.names) > 1] for step in steps]
    last = max((number for number, step in enumerate(wide) if step), default=0)
    return [list(step) for step in steps[:last]] + wide[last:]
