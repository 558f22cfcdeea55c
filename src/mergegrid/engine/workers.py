"""Threads that work on runs, each with memory of its own that it uses again and again."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

from mergegrid.engine.ops.operations import Operations

T = TypeVar("T")
R = TypeVar("R")
# Tasks that wait for each thread: enough that none is ever idle, few enough to stop soon.
_AHEAD = 3


class Desk:
    """What one thread works with."""

    def __init__(self, number: int, make: Callable[[], Operations]) -> None:
        self.number = number
        self.ops = make()


class Workers:
    """A pool of threads; results come back in the order of the tasks."""

    def __init__(self, threads: int, make: Callable[[], Operations]) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="merge")
        self._desks: SimpleQueue[Desk] = SimpleQueue()
        for number in range(threads):
            self._desks.put(Desk(number, make))

    def map(self, function: Callable[[Desk, T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results of the tasks in order; the first error stops the rest."""

        def work(task: T) -> R:
            desk = self._desks.get()
            try:
                return function(desk, task)
            finally:
                self._desks.put(desk)

        waiting: deque[Future[R]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(work, task))
                if len(waiting) > _AHEAD * self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
