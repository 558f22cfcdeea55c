"""What every view of a run has to show; lines and screen differ in how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mergegrid.study.live.job_logs import error_of, last_lines, last_message, seconds_left
from mergegrid.study.live.phases import REPORT
from mergegrid.study.live.run_state import Job, RunState, TimeLeft, clock_text

#: Lines of the log of a failed job.
_LOG_LINES = 12


@dataclass(frozen=True)
class RunFacts:
    """What does not change during a run."""

    title: str = ""
    """Title of the study."""
    results: str = ""
    """Folder of its results."""
    full_log: str = ""
    """File with everything that Snakemake logs."""
    places: str = ""
    """Where jobs run: `2 cores`, `a cluster`."""
    running: str = "running"
    """What is known of jobs that have started: on a cluster only that they were submitted."""


class View(Protocol):
    """Shows a run. Methods are called by one thread, in the order of events."""

    def begin(self, facts: RunFacts, state: RunState) -> None:
        """The run starts."""

    def started(self, job: Job) -> None:
        """A job has started."""

    def finished(self, job: Job, seconds: float) -> None:
        """A job is done."""

    def say(self, text: str, style: str = "") -> None:
        """Print lines that stay: a result, a warning, the end of the run."""

    def end(self) -> None:
        """The run is over; nothing moves any more."""


def head_line(facts: RunFacts, state: RunState) -> str:
    """First line of a run."""
    jobs = f"{state.total} job{'' if state.total == 1 else 's'}"
    where = f" on {facts.places}" if facts.places else ""
    return f"{facts.title or 'Run'}: {jobs}{where}"


def place_lines(facts: RunFacts) -> list[str]:
    """Where results and the full log are."""
    places = {"results": facts.results, "full log": facts.full_log}
    return [f"{name}: {place}" for name, place in places.items() if place]


def progress_text(state: RunState, left: TimeLeft | None = None) -> str:
    """How far a run is: `10 of 35 jobs, 0:45 elapsed, about 2 min left`."""
    failed = len(state.failed)
    parts = [f"{state.done} of {state.total} jobs"]
    parts += [f"{failed} failed"] if failed else []
    parts.append(f"{clock_text(state.elapsed)} elapsed")
    if state.done < state.total:
        parts.append(str(left or state.time_left()))
    return ", ".join(parts)


def messages_of(jobs: Sequence[Job]) -> dict[str, str]:
    """What running jobs last wrote to their logs, by title."""
    return {job.title: last_message(job.log) for job in jobs if job.log}


def announced_times(messages: Mapping[str, str]) -> dict[str, float]:
    """Seconds that running jobs say they need, by title."""
    times = {title: seconds_left(message) for title, message in messages.items()}
    return {title: seconds for title, seconds in times.items() if seconds is not None}


def failure_lines(job: Job, seconds: float, message: str = "", output: str = "") -> list[str]:
    """What is shown of a failed job: its rule, what went wrong, and the end of its log.

    Args:
        job: the job.
        seconds: time that it ran.
        message: what the executor says, such as SLURM's status.
        output: file with what jobs printed, which is shown where there is no log.
    """
    lines = [f"failed after {clock_text(seconds)}: {job.title} (rule {job.rule})"]
    if message:
        lines.append(f"  {message}")
    tail = last_lines(job.log, _LOG_LINES) if job.log else []
    if tail:
        lines.append(f"  last lines of {job.log}:")
    else:
        lines.append(f"  its log {job.log} is empty or missing" if job.log else "  it has no log")
        tail = last_lines(output, _LOG_LINES) if output else []
        lines += ["  jobs printed at last:"] if tail else []
    return [*lines, *(f"    {line}" for line in tail)]


def failure_summary(failed: Sequence[Job], state: RunState, facts: RunFacts, again: str) -> str:
    """The last words of a run with failed jobs: what went wrong, once more, and what to do."""
    lines = [f"{len(failed)} of {state.total} jobs failed, {state.done} done:"]
    for job in failed[:5]:
        lines.append(f"  {job.title}: {error_of(last_lines(job.log, _LOG_LINES))}".rstrip(": "))
        lines += [f"    log: {job.log}"] if job.log else []
    lines += [f"  and {len(failed) - 5} more"] if len(failed) > 5 else []
    lines += [f"full log: {facts.full_log}"] if facts.full_log else []
    lines.append("next: fix it and run the same command, which continues" + _command(again))
    return "\n".join(lines)


def interruption_summary(state: RunState, facts: RunFacts, again: str) -> str:
    """The last words of a run that was interrupted."""
    lines = [f"interrupted: {state.done} of {state.total} jobs done"]
    lines += [f"full log: {facts.full_log}"] if facts.full_log else []
    lines.append("next: the same command continues" + _command(again))
    return "\n".join(lines)


def shown_alone(job: Job) -> bool:
    """Whether a finished job has a line of its own; tables and figures have one together."""
    return job.phase != REPORT


def _command(again: str) -> str:
    return f": {again}" if again else ""
