"""One thread for linear algebra: libraries that split sums among threads change the last bits.

threadpoolctl sets limits of the calling thread for some libraries and of the process for others;
for the latter, it lets only one thread set the limit and ignores all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import Any

from mergegrid.errors import MergegridError

_lock = Lock()
# Numbers of threads to restore, of libraries whose number belongs to the process; the last user
# restores them.
_before: list[int] = []
_users: list[object] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit the BLAS and LAPACK of NumPy and SciPy to one thread, in all threads of the process.

    Raises:
        MergegridError: a library keeps several threads.
    """
    per_thread, shared = _libraries()
    user, numbers = object(), _numbers(per_thread)
    with _lock:
        if not _users:
            _before[:] = _numbers(shared)
        _users.append(user)
    try:
        with _lock:
            _set(shared, [1] * len(shared))
        _set(per_thread, [1] * len(per_thread))
        for library in (*per_thread, *shared):
            if library.get_num_threads() != 1:
                raise MergegridError(
                    f"{library.filepath} cannot be limited to one thread, and results would depend "
                    "on their number; set OPENBLAS_NUM_THREADS=1 and MKL_NUM_THREADS=1 and rerun"
                )
        yield
    finally:
        _set(per_thread, numbers)
        with _lock:
            _users.remove(user)
            if not _users:
                _set(shared, _before)


def _numbers(libraries: list[Any]) -> list[int]:
    return [library.get_num_threads() for library in libraries]


def _set(libraries: list[Any], numbers: list[int]) -> None:
    for library, number in zip(libraries, numbers, strict=True):
        if library.internal_api == "openblas":
            # Take control from whichever thread had it.
            library.clear_controlling_thread(force=True)
        library.set_num_threads(number)


@cache
def _libraries() -> tuple[list[Any], list[Any]]:
    """Libraries whose number of threads belongs to the calling thread, and to the process."""
    # Takes a tenth of a second, which other methods need not spend. SciPy, which is optional, has a
    # BLAS of its own, which can be limited only after it is loaded.
    if find_spec("scipy"):
        from scipy.linalg import lapack  # noqa: F401
    from threadpoolctl import ThreadpoolController

    per_thread: list[Any] = []
    shared: list[Any] = []
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        of_thread = library.internal_api == "mkl" or library.threading_layer == "openmp"
        (per_thread if of_thread else shared).append(library)
    return per_thread, shared
