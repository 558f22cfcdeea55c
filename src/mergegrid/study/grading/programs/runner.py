"""Many programs, side by side."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mergegrid.progress import progress
from mergegrid.study.grading.programs.sandbox import Outcome, Sandbox


def run_all(programs: Sequence[str], sandbox: Sandbox, workers: int, what: str) -> list[Outcome]:
    """Run programs, `workers` at a time, and tell how each ended, in their order.

    Each of the workers keeps a core busy; more of them than cores turn slow programs into timeouts.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="programs") as pool:
        return list(progress(pool.map(sandbox.run, programs), what, len(programs)))
