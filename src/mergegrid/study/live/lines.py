"""A run as plain lines, for log files and pipes: one for each finished job."""

import threading
from typing import TextIO

from mergegrid.study.live.run_state import Job, RunState, clock_text, duration
from mergegrid.study.live.view import (
    RunFacts,
    announced_times,
    head_line,
    messages_of,
    place_lines,
    shown_alone,
)

#: A line at least so often while a job takes long, in seconds.
_QUIET = 60.0


class LinesView:
    """Writes a line when a job is done, and every minute what runs."""

    def __init__(self, stream: TextIO, quiet: float = _QUIET) -> None:
        self._stream, self._quiet = stream, quiet
        self._lock = threading.Lock()
        self._written = threading.Event()
        self._over = threading.Event()
        self._complete: set[str] = set()

    def begin(self, facts: RunFacts, state: RunState) -> None:
        """Write what the run is about, and start the lines of every minute."""
        self._state, self._running = state, facts.running
        self.say("\n".join([head_line(facts, state), *place_lines(facts)]))
        threading.Thread(target=self._remind, daemon=True).start()

    def started(self, job: Job) -> None:
        """Nothing: the lines of every minute say what runs."""

    def finished(self, job: Job, seconds: float) -> None:
        """Write the job, its time and how much time is left."""
        if shown_alone(job):
            self._progress(f"{job.title}, {clock_text(seconds)}")
        for phase in self._state.phases():
            if phase.name == job.phase and phase.complete and not shown_alone(job):
                self._progress(f"{phase.name}, all {phase.total}")

    def say(self, text: str, style: str = "") -> None:
        """Write lines."""
        with self._lock:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        self._written.set()

    def end(self) -> None:
        """Stop the lines of every minute."""
        self._over.set()
        self._written.set()

    def _progress(self, text: str) -> None:
        state = self._state
        left = ""
        if state.done < state.total:
            left = f"; {state.time_left(announced_times(messages_of(state.running)))}"
        head = f"[{clock_text(state.elapsed)}] {state.done} of {state.total}"
        self.say(f"{head}  {text}{left}")

    def _remind(self) -> None:
        """Write what runs when nothing has been written for a while."""
        while not self._over.is_set():
            self._written.clear()
            if self._written.wait(self._quiet):
                continue
            jobs = self._state.running
            messages = messages_of(jobs)
            now = self._state.clock()
            texts = [
                f"{job.title} for {duration(now - job.started)} {_in_brackets(messages, job)}"
                for job in jobs[:4]
            ]
            texts += [f"and {len(jobs) - 4} more"] if len(jobs) > 4 else []
            if texts:
                self._progress(f"{self._running}: {', '.join(text.rstrip() for text in texts)}")


def _in_brackets(messages: dict[str, str], job: Job) -> str:
    message = messages.get(job.title)
    return f"({message})" if message else ""
