"""Logger of Snakemake that shows a run to a person: `--logger mergegrid`, set by profiles/default.

On a terminal it draws (`screen`), elsewhere it writes lines (`lines`). With --dry-run, --quiet,
--verbose, --printshellcmds or --debug-dag it steps back, and Snakemake prints as it always does.
Everything that Snakemake logs is in its own log file in any case.

Snakemake imports this module at each start of each workflow, so it imports nothing slow.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from mergegrid.study.live.output_file import OutputFile
from mergegrid.study.live.phases import job_title
from mergegrid.study.live.run_state import Job, RunState, clock_text
from mergegrid.study.live.view import (
    RunFacts,
    View,
    failure_lines,
    failure_summary,
    interruption_summary,
    progress_text,
)

#: Beginnings of messages that say nothing to a person who watches a run.
_BOILERPLATE = (
    "Assuming unrestricted shared filesystem usage",
    "Building DAG of jobs",
    "Using shell",
    "Conda environments: ignored",
    "Singularity containers: ignored",
    "Job stats",
    "Complete log(s)",
    "Config file ",
    "Elapsed time",
    "Exiting because a job execution failed",
    "At least one job did not complete successfully",
)
#: Parts of messages that tell of a person who ends the run.
_INTERRUPTS = (
    "died with <Signals.SIGINT",
    "Terminating processes on user request",
    "Cancelling snakemake on user request",
    "Will exit after finishing currently running jobs",
)
#: Events before a run starts that say nothing either.
_SETUP = (LogEvent.WORKFLOW_STARTED, LogEvent.RESOURCES_INFO, LogEvent.RUN_INFO)
#: Seconds to wait for the view of a run to open.
_LONGEST_START = 10.0
#: Attribute of a record by which the Snakefile speaks to this handler.
_ATTRIBUTE = "mergegrid"


def marked() -> dict[str, Any]:
    """The `extra` of a log record whose text is for the person who watches the run."""
    return {_ATTRIBUTE: {}}


def announce(handlers: Iterable[logging.Handler], **facts: Any) -> None:
    """Tell this handler, if it is among those of a run, what runs; returns when it shows the run.

    Args:
        handlers: the handlers of the run.
        facts: `title`, `results`, `again` (the command of this run), `full_log` and `earlier`
            (seconds of a job by rule).
    """
    for handler in handlers:
        if isinstance(handler, LogHandler) and handler.writes_to_stream:
            ready = threading.Event()
            extra = {_ATTRIBUTE: {**facts, "ready": ready}}
            # Records pass through a queue, and jobs must not print before the screen is set up.
            logging.getLogger("snakemake.logging").info(facts.get("title"), extra=extra)
            ready.wait(_LONGEST_START)


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options of the command line, as `--logger-mergegrid-view`."""

    view: Literal["auto", "screen", "lines", "full"] = field(
        default="auto",
        metadata={
            "help": "What is shown of a run: a live screen, plain lines, or everything that "
            "Snakemake logs (full); auto takes the screen on a terminal and lines elsewhere."
        },
    )


class LogHandler(LogHandlerBase):
    """Shows a run of a study."""

    def __post_init__(self) -> None:
        common = self.common_settings
        view = self.settings.view if isinstance(self.settings, LogHandlerSettings) else "auto"
        usual = (common.dryrun, common.quiet, common.verbose, common.printshellcmds)
        self._steps_back = view == "full" or common.debug_dag or any(usual)
        self._view_name = view
        self._view: View | None = None
        self._state: RunState | None = None
        self._facts = RunFacts()
        self._again = ""
        self._planned: Mapping[str, int] = {}
        self._output: OutputFile | None = None
        self._ended = self._interrupted = False
        self._plain: logging.Handler | None = None

    @property
    def writes_to_stream(self) -> bool:
        """Whether it replaces what Snakemake prints."""
        return not self._steps_back

    @property
    def writes_to_file(self) -> bool:
        """It has no file; Snakemake writes its own log file."""
        return False

    @property
    def has_filter(self) -> bool:
        """It chooses what to show itself."""
        return True

    @property
    def has_formatter(self) -> bool:
        """It formats itself."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """It needs no graph."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, or what follows from it."""
        if self._steps_back:
            return
        try:
            self._show(record)
        except Exception:  # noqa: BLE001 - a fault of the view must not end the run
            self._leave_view()
            self._view = None
            self._state = None
            self._as_usual(record)
            self.handleError(record)

    def close(self) -> None:
        """Print the end of a run without a conclusion, and restore the terminal."""
        state, view = self._state, self._view
        ended, self._ended = self._ended, True
        if state and view and not ended:
            self._leave_view()
            if self._interrupted:
                view.say(interruption_summary(state, self._facts, self._again), "yellow")
            elif failed := state.failed:
                text = failure_summary(failed, state, self._facts, self._again)
                view.say(text, "red")
            elif state.done < state.total:
                view.say(interruption_summary(state, self._facts, self._again), "yellow")
            else:
                view.say(f"done: {progress_text(state)}")
        super().close()

    def _show(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        facts = getattr(record, _ATTRIBUTE, None)
        if event == LogEvent.RUN_INFO:
            stats = dict(record.__dict__["stats"])
            stats.pop("total", None)
            self._planned = stats
        elif event == LogEvent.RESOURCES_INFO:
            self._note_places(record.__dict__)
        elif facts:
            try:
                self._begin(facts)
            finally:
                facts["ready"].set()
        elif self._state is None or self._view is None:
            self._before_the_run(record, event, facts)
        else:
            self._during_the_run(self._state, self._view, record, event, facts)

    def _before_the_run(self, record: logging.LogRecord, event: Any, facts: Any) -> None:
        if event == LogEvent.JOB_INFO and self._planned:
            # A workflow that says nothing about itself.
            self._begin({})
            self._show(record)
        elif event not in _SETUP and not _is_boilerplate(record):
            self._as_usual(record)

    def _during_the_run(
        self, state: RunState, view: View, record: logging.LogRecord, event: Any, facts: Any
    ) -> None:
        values = record.__dict__
        if any(text in _text(record) for text in _INTERRUPTS):
            self._interrupted = True
        if event == LogEvent.JOB_INFO:
            job = _job(values, state.clock())
            state.start(values["jobid"], job)
            view.started(job)
        elif event == LogEvent.JOB_FINISHED:
            if ended := state.finish(values["job_id"]):
                job, seconds = ended
                view.finished(job, seconds)
                for line in _first_results(job):
                    view.say(f"[{clock_text(state.elapsed)}] {line}", "green")
        elif event == LogEvent.JOB_ERROR:
            if (ended := state.fail(values["jobid"])) and not self._interrupted:
                output = self._output.path if self._output else ""
                message = str(values.get("rule_msg") or "")
                view.say("\n".join(failure_lines(*ended, message, output)), "red")
        elif facts is not None:
            self._say(view, record)
        elif record.levelno >= logging.WARNING:
            if not _is_boilerplate(record) and not _is_repeated(values):
                view.say(_text(record), "red" if record.levelno >= logging.ERROR else "yellow")
        elif _text(record).startswith("Trying to restart job"):
            view.say(_text(record), "yellow")

    def _say(self, view: View, record: logging.LogRecord) -> None:
        """Print a text of the Snakefile; one after the last job is the end of the run."""
        if self._state and self._state.done == self._state.total:
            self._leave_view()
            self._ended = True
        view.say(_text(record))

    def _begin(self, facts: Mapping[str, Any]) -> None:
        self._again = facts.get("again", "")
        shown = {name: str(facts.get(name, "")) for name in ("title", "results", "full_log")}
        self._facts = replace(self._facts, **shown)
        self._state = RunState(self._planned, facts.get("earlier", {}))
        self._view = self._open_view()
        self._view.begin(self._facts, self._state)

    def _open_view(self) -> View:
        stream: TextIO = sys.stderr
        if _draws(self._view_name, stream):
            from mergegrid.study.live.screen import ScreenView

            # What jobs print goes to a file, or it would run through the drawing.
            self._output = OutputFile(_beside(self._facts.full_log))
            stream = self._output.redirect()
            atexit.register(self._leave_view)
            return ScreenView(stream, color=not self.common_settings.nocolor)
        from mergegrid.study.live.lines import LinesView

        return LinesView(stream)

    def _leave_view(self) -> None:
        """End the view, and give the terminal back."""
        if self._view:
            self._view.end()
        if self._output:
            self._output.restore()

    def _note_places(self, values: Mapping[str, Any]) -> None:
        if cores := values.get("cores"):
            places = f"{cores} core{'' if cores == 1 else 's'}"
        elif "nodes" in values:
            self._facts = RunFacts(places="a cluster", running="submitted")
            return
        else:
            return
        self._facts = RunFacts(places=places)

    def _as_usual(self, record: logging.LogRecord) -> None:
        """Print a record as Snakemake does without this handler."""
        if self._plain is None:
            from mergegrid.study.runtime.snakemake_compat import default_handler

            self._plain = default_handler(self.common_settings)
        self._plain.handle(record)


def _draws(view: str, stream: TextIO) -> bool:
    if view == "auto":
        return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    return view == "screen"


def _beside(full_log: str) -> Path:
    """File for what jobs print, beside the full log."""
    log = Path(full_log or ".snakemake/log/run.log")
    return log.with_name(f"{log.name.removesuffix('.log')}.jobs.log")


def _job(values: Mapping[str, Any], now: float) -> Job:
    wildcards = {name: str(value) for name, value in (values["wildcards"] or {}).items()}
    log = next(iter(values["log"] or ()), "")
    title = job_title(values["rule_name"], wildcards, log)
    return Job(values["rule_name"], title, log, tuple(values["output"] or ()), now)


def _first_results(job: Job) -> list[str]:
    """Lines on the scores that a job has written."""
    if job.rule not in ("sweep", "merges", "choose") or not job.outputs:
        return []
    from mergegrid.study.reporting.first_results import first_results

    return first_results(Path(job.outputs[0]))


def _text(record: logging.LogRecord) -> str:
    return record.getMessage().rstrip()


def _is_boilerplate(record: logging.LogRecord) -> bool:
    text = _text(record).lstrip()
    if text.startswith("WorkflowError:\n"):
        text = text.removeprefix("WorkflowError:\n").lstrip()
    return text in ("None", "") or text.startswith(_BOILERPLATE)


def _is_repeated(values: Mapping[str, Any]) -> bool:
    """Whether a record says only that a job's process failed, which `JOB_ERROR` says better."""
    text = str(values.get("msg"))
    failed = "returned non-zero exit status" in text or "died with <Signals" in text
    return values.get("exception") == "RuleException" and failed
