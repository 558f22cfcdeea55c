"""Everything that leans on parts of Snakemake 9 that it does not document.

Functions take the global `workflow` of a Snakefile. test_snakemake_compat.py checks
what they expect of Snakemake.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from logging import Handler
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import IO, Any

import psutil
from snakemake.exceptions import WorkflowError
from snakemake.logging import (
    ColorizingTextHandler,
    DefaultFilter,
    DefaultFormatter,
    logger,
)

#: Lock on the working folder, shared by all runs in it; the file says where the jobs of the last
#: one run.
RUN_LOCK = Path(".snakemake/mergegrid.lock")


def config_files(workflow: Any, default: str) -> list[Path | str]:
    """The configuration files of the command line, else the default: one replaces it, not extends
    it."""
    return list(workflow.overwrite_configfiles or [default])


def is_main(workflow: Any) -> bool:
    """Whether this is the process that the user started, not that of one job."""
    return bool(workflow.is_main_process)


def runs_here(workflow: Any) -> bool:
    """Whether jobs run on this machine, not on a cluster; known once the run has an executor."""
    return bool(workflow.is_main_process and workflow.local_exec)


def folder_of_rules(workflow: Any) -> Path:
    """Folder of the rule file that is being read."""
    return Path(workflow.current_basedir.get_path_or_uri(secret_free=False))


def cores_of(workflow: Any) -> int | None:
    """The cores that all jobs share, by --cores; None where they run on a cluster."""
    cores: int | None = workflow.global_resources["_cores"].value
    return cores


def limit_of(workflow: Any, name: str) -> int | None:
    """The limit on a resource by --resources, if there is one."""
    limits = workflow.global_resources
    return int(limits[name].value) if name in limits else None


def set_limit(workflow: Any, name: str, limit: int) -> None:
    """Limit a resource over all jobs, as --resources does."""
    workflow.register_resource(name, limit)


def default_resource(workflow: Any, name: str) -> Any:
    """A number among the default resources of the command line or profile, None where it is not
    set.

    Raises:
        WorkflowError: it is an expression.
    """
    defaults = workflow.resource_settings.default_resources or {}
    if name not in defaults:
        return None
    try:
        return defaults[name].value
    except ValueError as error:
        raise WorkflowError(
            f"{name} in the default resources must be a number; put an expression into "
            "set-resources of a rule"
        ) from error


def requested_memory(workflow: Any, families: Iterable[str | None]) -> dict[str, int | None]:
    """Memory in MB that the first attempt of each rule requests; None where it depends on its
    inputs.

    For rules that go by the size of a decoder, the largest over `families`.
    """
    requested: dict[str, int | None] = {}
    for rule in workflow.rules:
        memory = rule.resources.get("mem_mb")
        if not memory:
            continue
        known = {"rulename": rule.name, "attempt": 1, "threads": 1}
        try:
            # An expression of --set-resources may use more than is known here.
            requested[rule.name] = max(
                memory.evaluate(
                    SimpleNamespace(family=family, expert=None),
                    input=None,
                    async_run=workflow.async_run,
                    **known,
                ).value
                for family in families
            )
        except (AttributeError, KeyError, TypeError, WorkflowError):
            requested[rule.name] = None
    return requested


def start_jobs_without_limit(workflow: Any) -> None:
    """Remove the scheduler's limit on how many jobs start per second.

    With it, Snakemake 9 searches for jobs again a second after every search, and every finished job
    adds one more such search to each second of the run: after a hundred jobs, a sixth of a core.
    """
    workflow.scheduler.job_rate_limiter = None


def end_on_interrupt() -> None:
    """Let `kill -INT` end a run and its jobs even where a shell made background jobs ignore it.

    On a terminal Ctrl-C reaches the jobs by itself, and Snakemake waits for them.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def hold_folder(workflow: Any) -> IO[str] | None:
    """Share a lock on the working folder with all runs in it, until this process ends.

    Snakemake's locks outlive a kill -9 and a power cut; those of the kernel do not. So where no run
    is alive and the last one was on this machine, Snakemake's locks are stale and are removed.
    """
    if workflow.output_settings.dryrun or not workflow.is_main_process:
        return None
    RUN_LOCK.parent.mkdir(exist_ok=True)
    file = RUN_LOCK.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        # Jobs of a cluster may still be writing; only the user can tell.
        if file.read() == f"{os.uname().nodename} local":
            for lock in RUN_LOCK.parent.glob("locks/*.lock"):
                logger.info(f"Removing {lock} of a run that was killed.")
                lock.unlink()
    except BlockingIOError:
        pass  # Another run is alive.
    except OSError as error:
        logger.debug(f"{RUN_LOCK} cannot be locked: {error}")
        return file
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def record_place(workflow: Any) -> None:
    """Record on which host the jobs of this run execute."""
    where = "local" if workflow.local_exec else "cluster"
    RUN_LOCK.write_text(f"{os.uname().nodename} {where}", encoding="utf-8")


def log_file(workflow: Any) -> str:
    """The log file of this run, relative to the working folder; "" where there is none."""
    files = [str(file) for file in workflow.logger_manager.get_logfile()]
    return os.path.relpath(files[0]) if files else ""


def log_handlers(workflow: Any) -> list[Handler]:
    """The handlers of the logger plugins of this run."""
    return list(workflow.logger_manager.get_log_handlers())


def ran(workflow: Any, rule: str) -> bool:
    """Whether a job of a rule has finished in this run."""
    return any(job.rule.name == rule for job in workflow.dag.finished_jobs)


def default_handler(settings: Any) -> Handler:
    """The handler by which Snakemake prints where no logger plugin does."""
    handler: Handler = ColorizingTextHandler(
        nocolor=settings.nocolor, stream=sys.stdout if settings.stdout else sys.stderr
    )
    handler.addFilter(
        DefaultFilter(
            settings.quiet,
            settings.debug_dag,
            settings.verbose,
            settings.dryrun,
            settings.printshellcmds,
        )
    )
    handler.setFormatter(DefaultFormatter(settings.quiet, settings.show_failed_logs))
    return handler
