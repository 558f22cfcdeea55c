"""Progress of long work: a bar on a terminal, plain lines in a log file."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0

logger = logging.getLogger(__name__)


def progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items, reporting how many are done and the estimated time left."""
    start = last = time.monotonic()
    bar = tqdm(items, desc=description, total=total, disable=None, leave=False)
    for done, item in enumerate(bar, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            left = (now - start) / done * (total - done)
            logger.info("%s: %d of %d done, about %.0f s left", description, done, total, left)
            last = now


@contextmanager
def byte_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that records bytes processed; reports amount, rate and time left.

    The rate counts from the first call: before it, loops may be compiled.
    """
    start = last = 0.0
    done = first = 0
    with tqdm(
        desc=description, total=total, unit="B", unit_scale=True, disable=None, leave=False
    ) as bar:

        def advance(count: int) -> None:
            nonlocal done, first, start, last
            done += count
            bar.update(count)
            now = time.monotonic()
            if not first:
                start, last, first = now, now, done
            if bar.disable and now - last >= SECONDS_BETWEEN_LINES and done > first:
                rate = (done - first) / (now - start)
                logger.info(
                    "%s: %.2f of %.2f GB done, %.0f MB/s, about %.0f s left",
                    *(description, done / 1e9, total / 1e9, rate / 1e6),
                    max(total - done, 0) / rate,
                )
                last = now

        yield advance
