"""Explain why lm-evaluation-harness 0.4.13 failed, from the text of its log.

lm-eval has no error codes: an unknown task, a data set that cannot be downloaded and a missing
package differ only in the last line of a traceback, and those sentences are lm-eval's and
datasets' own. `tests/integration/test_harness.py` provokes the common ones.
"""

import re
from pathlib import Path

from mergegrid.errors import ConfigError, MergegridError, SourceError
from mergegrid.study.schema.lm_eval import Harness

VERSION = "0.4.13"
"""The version that mergegrid is tested with."""

# "datasets.exceptions.DatasetNotFoundError: ..."
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|IsEnabled)\b")
_UNKNOWN_TASK = re.compile(r"Tasks not found: (.+)")
_UNREACHABLE = re.compile(
    r"(?:reach|Module) '([^']+)' (?:on|doesn't exist on) the (?:Hugging Face )?Hub"
)
_OFFLINE = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "HF_HUB_OFFLINE")
_UNSAFE_TASK = re.compile(r"Attempted to run task: (\S+) which is marked as unsafe")
# The metric that runs programs: lm-eval downloads it, or it demands permission.
_RUNS_CODE = ("Module 'code_eval'", "HF_ALLOW_CODE_EVAL")
_TAIL = 30
_MISSING_PACKAGE = ("ModuleNotFoundError", "ImportError")


def failure(settings: Harness, version: str, code: int, log: Path) -> MergegridError:
    """Return the error, in one line, that says why lm-eval failed.

    Args:
        settings: The tasks.
        version: The version of lm-eval.
        code: Its exit code.
        log: Its log.
    """
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    last = (errors or lines or ["nothing"])[-1]
    tasks = ", ".join(settings.tasks)
    if unknown := _UNKNOWN_TASK.search(last):
        return ConfigError(
            f"harness.tasks: lm-eval {version} has no task {unknown[1]}; see "
            f"`{settings.python} -m lm_eval ls tasks`, or set harness.include_path to the folder "
            "of your own tasks"
        )
    unsafe = _UNSAFE_TASK.search(last)
    if unsafe or any(sign in line for sign in _RUNS_CODE for line in lines[-_TAIL:]):
        return ConfigError(
            f"harness.tasks: {unsafe[1] if unsafe else tasks} would run programs written by models "
            "without a sandbox; use a benchmark of kind humaneval or mbpp instead"
        )
    unreachable = _UNREACHABLE.search(last)
    if unreachable or any(sign in last for sign in _OFFLINE):
        source = (unreachable and unreachable[1]) or "data"
        return SourceError(
            f"harness.tasks: {source} for {tasks} is on the hub, which cannot be reached; run once "
            "with network access and without HF_HUB_OFFLINE, or use tasks whose data is cached "
            f"(the log of lm-eval is {log})"
        )
    if last.startswith(_MISSING_PACKAGE):
        return ConfigError(
            f"harness.python = {settings.python!r}: its environment lacks a package for {tasks} "
            f"on {settings.model} ({last}); install it there"
        )
    return MergegridError(
        f"lm-eval {version} exited with code {code}; the last line of its log {log} is {last!r}. "
        "Fix it and rerun"
    )
