"""One thread for linear algebra: libraries split sums among threads, and the last bits change.

Leans on threadpoolctl, whose limits are those of one thread for some libraries and of the process
for others; of those, it lets only one thread set the limit and ignores all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

from mergegrid.errors import MergegridError

_lock = Lock()
# What was before, of libraries whose number of threads belongs to the process; the last one out
# restores it.
_before: list[int] = []
_users: list[object] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold the BLAS and LAPACK of NumPy and SciPy to one thread, whoever calls them meanwhile.

    Raises:
        MergegridError: a library goes on with several threads.
    """
    own, shared = _libraries()
    user, numbers = object(), _numbers(own)
    with _lock:
        if not _users:
            _before[:] = _numbers(shared)
        _users.append(user)
    try:
        with _lock:
            _set(shared, [1] * len(shared))
        _set(own, [1] * len(own))
        for library in (*own, *shared):
            if library.get_num_threads() != 1:
                raise MergegridError(
                    f"{library.filepath} cannot be held to one thread, which results would depend "
                    "on; set OPENBLAS_NUM_THREADS=1 and MKL_NUM_THREADS=1 and run again"
                )
        yield
    finally:
        _set(own, numbers)
        with _lock:
            _users.remove(user)
            if not _users:
                _set(shared, _before)


def _numbers(libraries: list[Any]) -> list[int]:
    return [library.get_num_threads() for library in libraries]


def _set(libraries: list[Any], numbers: list[int]) -> None:
    for library, number in zip(libraries, numbers, strict=True):
        if library.internal_api == "openblas":
            # Whoever controlled it before, it is asked for one thread now.
            library.clear_controlling_thread(force=True)
        library.set_num_threads(number)


@cache
def _libraries() -> tuple[list[Any], list[Any]]:
    """Libraries whose number of threads belongs to the calling thread, and to the process."""
    # A tenth of a second, which other methods need not spend. SciPy brings a BLAS of its own, which
    # can be held only once it is loaded.
    from scipy.linalg import lapack  # noqa: F401
    from threadpoolctl import ThreadpoolController

    own: list[Any] = []
    shared: list[Any] = []
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        per_thread = library.internal_api == "mkl" or library.threading_layer == "openmp"
        (own if per_thread else shared).append(library)
    return own, shared
