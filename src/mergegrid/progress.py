"""Progress of long work: a bar on a terminal, plain lines in a log."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0

logger = logging.getLogger(__name__)


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items, telling now and then how many are done and how long the rest will take."""
    start = last = time.monotonic()
    bar = tqdm(items, desc=what, total=total, disable=None, leave=False)
    for done, item in enumerate(bar, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            left = (now - start) / done * (total - done)
            logger.info("%s: %d of %d done, about %.0f s left", what, done, total, left)
            last = now
