"""Run many programs in parallel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mergegrid.progress import progress
from mergegrid.study.grading.programs.sandbox import Outcome, Sandbox


def run_all(programs: Sequence[str], sandbox: Sandbox, workers: int, what: str) -> list[Outcome]:
    """Run programs, `workers` at a time, and return their outcomes in order.

    Each worker keeps a core busy; more workers than cores can turn slow programs into timeouts.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="programs") as pool:
        return list(progress(pool.map(sandbox.run, programs), what, len(programs)))
