"""State of a run: which jobs are done, which run, and how much time is left."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mergegrid.study.live.phases import PHASES, REPORT, base_rule, phase_of

#: Seconds from which a part of the time left is worth a word.
_WORTH_SAYING = 30.0


@dataclass(frozen=True)
class Job:
    """A job that runs, or ran."""

    rule: str
    """Name of its rule."""
    title: str
    """What it is about, as in `expert trec of minilm, seed 0`."""
    log: str = ""
    """Its log file."""
    outputs: tuple[str, ...] = ()
    """Its output files."""
    started: float = 0.0
    """When it started, in seconds of the clock."""

    @property
    def phase(self) -> str:
        """The phase of its rule."""
        return phase_of(self.rule)


@dataclass(frozen=True)
class PhaseProgress:
    """How far a phase is."""

    name: str
    done: int
    running: int
    failed: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether all of its jobs are done."""
        return self.done == self.total


@dataclass(frozen=True)
class TimeLeft:
    """Estimate of the time until the run ends."""

    seconds: float
    """Time for the jobs whose duration is known."""
    unknown: tuple[str, ...] = ()
    """Phases with rules of which no job has been timed yet."""

    def __str__(self) -> str:
        if not self.unknown:
            return f"about {duration(self.seconds)} left"
        if self.unknown == (REPORT,) and self.seconds:
            return f"about {duration(self.seconds)} left, then {REPORT}"
        # A few seconds of what is known would say nothing about the whole.
        known = self.seconds >= _WORTH_SAYING
        return f"at least {duration(self.seconds)} left" if known else "time left not known yet"

    @property
    def missing(self) -> str:
        """What is not in the estimate; "" if everything is, or only the tables at the end."""
        if not self.unknown or (self.unknown == (REPORT,) and self.seconds):
            return ""
        return f"not timed yet: {', '.join(self.unknown)}"


def duration(seconds: float) -> str:
    """A time in words, with the precision that an estimate has: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{max(round(seconds / 10), 1) * 10} s" if seconds >= 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes / 10) * 10, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def clock_text(seconds: float) -> str:
    """Elapsed time like a stopwatch: `0:07`, `12:40`, `3:02:15`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class RunState:
    """Jobs of a run, told as they start and end. Safe to use from several threads."""

    planned: Mapping[str, int]
    """Number of jobs by rule."""
    earlier: Mapping[str, float] = field(default_factory=dict)
    """Mean seconds of a job by rule, as measured by earlier runs of the study."""
    clock: Callable[[], float] = time.monotonic
    """Gives the time in seconds."""

    def __post_init__(self) -> None:
        self.start_time = self.clock()
        self._lock = threading.Lock()
        self._running: dict[int, Job] = {}
        self._done: Counter[str] = Counter()
        self._failed: dict[int, Job] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._most_at_once = 1

    def start(self, number: int, job: Job) -> None:
        """A job starts; one that failed before is tried again."""
        with self._lock:
            self._failed.pop(number, None)
            self._running[number] = job
            self._most_at_once = max(self._most_at_once, len(self._running))

    def finish(self, number: int) -> tuple[Job, float] | None:
        """A job is done: the job and its seconds; None if its start is unknown."""
        with self._lock:
            job = self._running.pop(number, None)
            if job is None:
                return None
            seconds = self.clock() - job.started
            self._done[job.rule] += 1
            self._seconds[base_rule(job.rule)].append(seconds)
            return job, seconds

    def fail(self, number: int) -> tuple[Job, float] | None:
        """A job failed: the job and its seconds; None if its start is unknown."""
        with self._lock:
            job = self._running.pop(number, None)
            if job is None:
                return None
            self._failed[number] = job
            return job, self.clock() - job.started

    @property
    def elapsed(self) -> float:
        """Seconds since the run started."""
        return self.clock() - self.start_time

    @property
    def total(self) -> int:
        """Number of all jobs."""
        return sum(self.planned.values())

    @property
    def done(self) -> int:
        """Number of jobs that are done."""
        with self._lock:
            return self._done.total()

    @property
    def failed(self) -> list[Job]:
        """Jobs that failed and were not tried again."""
        with self._lock:
            return list(self._failed.values())

    @property
    def running(self) -> list[Job]:
        """Jobs that run now, the oldest first."""
        with self._lock:
            return list(self._running.values())

    def phases(self) -> list[PhaseProgress]:
        """Progress of the phases that have jobs."""
        with self._lock:
            total, done = Counter[str](), Counter[str]()
            for rule, count in self.planned.items():
                total[phase_of(rule)] += count
            for rule, count in self._done.items():
                done[phase_of(rule)] += count
            running = Counter(job.phase for job in self._running.values())
            failed = Counter(job.phase for job in self._failed.values())
        return [
            PhaseProgress(name, done[name], running[name], failed[name], total[name])
            for name in PHASES
            if total[name]
        ]

    def time_left(self, announced: Mapping[str, float] | None = None) -> TimeLeft:
        """Estimate the time that is left.

        A rule takes the mean of its finished jobs, else what a running job says, else the mean of
        earlier runs. As many jobs run side by side as have so far; the longest single job is a
        lower bound.

        Args:
            announced: seconds that running jobs say they need, by title.
        """
        announced = announced or {}
        now = self.clock()
        with self._lock:
            running = list(self._running.values())
            seconds = {rule: sum(times) / len(times) for rule, times in self._seconds.items()}
            waiting = Counter(self.planned)
            waiting.subtract(self._done)
            waiting.subtract(Counter(job.rule for job in running))
            waiting.subtract(Counter(job.rule for job in self._failed.values()))
            at_once = self._most_at_once
        rules = {base_rule(rule) for rule in self.planned}
        from_logs = {
            base_rule(job.rule): now - job.started + announced[job.title]
            for job in running
            if job.title in announced
        }
        usual = {rule: mean for rule, mean in self.earlier.items() if rule in rules}
        usual |= from_logs | seconds
        left: list[float] = []
        unknown: set[str] = set()
        for job in running:
            rule, spent = base_rule(job.rule), now - job.started
            if job.title in announced:
                left.append(announced[job.title])
            elif rule in usual:
                left.append(max(usual[rule] - spent, 0.05 * usual[rule]))
            else:
                unknown.add(job.phase)
        for name, count in waiting.items():
            if count > 0 and base_rule(name) in usual:
                left.extend([usual[base_rule(name)]] * count)
            elif count > 0:
                unknown.add(phase_of(name))
        work = sum(left) / min(at_once, max(len(left), 1))
        ordered = tuple(name for name in PHASES if name in unknown)
        return TimeLeft(max(work, max(left, default=0.0)), ordered)
