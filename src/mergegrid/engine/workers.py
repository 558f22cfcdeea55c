"""Threads that work on chunks, each with buffers of its own that it reuses."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

from mergegrid.engine.ops.operations import Operations

T = TypeVar("T")
R = TypeVar("R")
# Tasks that wait for each thread: enough that no thread is idle, few enough to stop soon.
_AHEAD = 3


class WorkerState:
    """The number of a thread and its arithmetic, with the buffers."""

    def __init__(self, number: int, make: Callable[[], Operations]) -> None:
        self.number = number
        self.ops = make()


class Workers:
    """A pool of threads; results come back in the order of the tasks."""

    def __init__(self, threads: int, make: Callable[[], Operations]) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="merge")
        self._states: SimpleQueue[WorkerState] = SimpleQueue()
        for number in range(threads):
            self._states.put(WorkerState(number, make))

    def map(self, function: Callable[[WorkerState, T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results of the tasks in order; the first error stops the rest."""

        def work(task: T) -> R:
            state = self._states.get()
            try:
                return function(state, task)
            finally:
                self._states.put(state)

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
