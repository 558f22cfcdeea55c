"""A run on a terminal: bars for its phases, what runs now, time left; results stay above."""

import os
import time
from contextlib import suppress
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mergegrid.study.live.run_state import Job, PhaseProgress, RunState, clock_text
from mergegrid.study.live.view import (
    RunFacts,
    announced_times,
    head_line,
    messages_of,
    place_lines,
    progress_text,
)

#: Redraws per second.
_REDRAWS = 2.0
#: Seconds between looks into the logs of running jobs.
_LOOKS = 1.0
_BAR = 28
#: Size of a terminal that does not tell.
_COLUMNS, _LINES = 80, 24


class ScreenView:
    """Draws at the bottom of a terminal, and prints what stays above."""

    def __init__(self, stream: TextIO, color: bool = True) -> None:
        self._stream = stream
        # NO_COLOR in the environment has the same effect.
        self._console = Console(
            file=stream, no_color=True if not color else None, highlight=False, soft_wrap=True
        )
        self._live: Live | None = None
        self._looked = 0.0
        self._messages: dict[str, str] = {}

    def begin(self, facts: RunFacts, state: RunState) -> None:
        """Print what the run is about, and start to draw."""
        self._state, self._running = state, facts.running
        self.say(head_line(facts, state), "bold")
        for line in place_lines(facts):
            self.say(line, "dim")
        self._live = Live(
            get_renderable=self.drawing,
            console=self._console,
            refresh_per_second=_REDRAWS,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._live.start(refresh=True)

    def started(self, job: Job) -> None:
        """Nothing: the next redraw shows it."""

    def finished(self, job: Job, seconds: float) -> None:
        """Nothing: the next redraw shows it."""

    def say(self, text: str, style: str = "") -> None:
        """Print lines above what is drawn."""
        self._console.print(Text(text, style=style))

    def end(self) -> None:
        """Stop drawing, and leave how far every phase came."""
        if self._live:
            self._live.stop()
            self._live = None
            self._console.print(self._bars())

    def drawing(self) -> Group:
        """What the screen shows now."""
        # File descriptors 1 and 2 may lead to a file, so rich would not find the size by itself.
        with suppress(OSError):  # Not a terminal: tests draw into files.
            columns, lines = os.get_terminal_size(self._stream.fileno())
            # A terminal that does not know its size says 0.
            self._console.size = (columns or _COLUMNS, lines or _LINES)
        now = time.monotonic()
        jobs = self._state.running
        if now - self._looked >= _LOOKS:
            self._messages, self._looked = messages_of(jobs), now
        left = self._state.time_left(announced_times(self._messages))
        status = Text(progress_text(self._state, left), style="bold", overflow="ellipsis")
        status.no_wrap = True
        missing = Text(left.missing, style="dim", overflow="ellipsis")
        missing.no_wrap = True
        return Group(self._bars(), self._jobs(jobs), status, missing)

    def _bars(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(width=_BAR)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for phase in self._state.phases():
            bar = ProgressBar(total=phase.total, completed=phase.done, width=_BAR)
            style = "green" if phase.complete else "" if phase.running or phase.failed else "dim"
            table.add_row(
                Text(phase.name, style),
                bar,
                Text(f"{phase.done}/{phase.total}"),
                _note(phase, self._running),
            )
        return table

    def _jobs(self, jobs: list[Job]) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True, style="cyan")
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
        shown = jobs[: max(self._console.height - len(self._state.phases()) - 5, 1)]
        now = self._state.clock()
        for index, job in enumerate(shown):
            head = "now" if index == 0 else ""
            spent = clock_text(now - job.started)
            table.add_row(head, Text(job.title), spent, Text(self._messages.get(job.title, "")))
        if len(jobs) > len(shown):
            table.add_row("", f"and {len(jobs) - len(shown)} more", "", "")
        return table


def _note(phase: PhaseProgress, running: str) -> Text:
    if phase.failed:
        return Text(f"{phase.failed} failed", "red")
    return Text(f"{phase.running} {running}" if phase.running else "", "dim")
