"""Run alpaca_eval in a process of its own: `python -m` this module, a request, a result.

alpaca_eval reads the environment when it is imported and changes the logging of its process. A
request:

    {"annotator": "results/judge/function-0f3a90e1c27b5d64", "generator": "merge",
     "examples": [{"instruction": "...", "output": "...", "reference": "...", "dataset": "..."}],
     "concurrency": 5, "retries": 5, "length_file": null}

A result has one preference per example, 0 for the reference and 1 for the output, and with length
control the win rate and its standard error:

    {"preferences": [0.0, 1.0, 0.5], "length_controlled": [0.43, 0.02]}

If answers are still missing after all retries, it has their number and the first reason:

    {"failed": 2, "reason": "Error code: 429"}

Standard output has one JSON line per event: `{"judged": 8}` or `{"level": 30, "message": "..."}`.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergegrid.fsync import sync_tree
from mergegrid.study.grading.judges.alpaca_eval_compat import (
    Annotator,
    length_controlled_win_rate,
    preference,
)
from mergegrid.study.grading.judges.annotators import ANSWERS

_LONGEST_WAIT = 60.0
# Answers are saved in batches, and each batch waits for its slowest answer.
_BATCH = 8

logger = logging.getLogger(__name__)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Judge every example, retry those that got no answer, and return the result."""
    failures = _FirstFailure()
    # Before alpaca_eval is imported, which configures the root logger if it has no handler.
    logging.getLogger().addHandler(_EventHandler())
    logging.getLogger().addHandler(failures)
    total = len(request["examples"])
    missing = list(range(total))
    for attempt in range(request["retries"] + 1):
        if attempt:
            wait = min(2.0 ** (attempt - 1), _LONGEST_WAIT)
            logger.warning(
                "%d of %d answers of the judge are missing (%s); retrying in %.0f s",
                *(len(missing), total, failures.reason, wait),
            )
            time.sleep(wait)
        failures.reason = ""
        missing = _judge(request, missing, failures)
        if not missing:
            return _result(request, failures)
    return {"failed": len(missing), "reason": failures.reason}


def _judge(request: dict[str, Any], indices: Sequence[int], failures: "_FirstFailure") -> list[int]:
    """Judge some examples and save the answers; return the indices of those without an answer."""
    annotator = _annotator(request, failures)
    answers = Path(request["annotator"], ANSWERS)
    size = _BATCH * request["concurrency"]
    missing: list[int] = []
    for start in range(0, len(indices), size):
        batch = indices[start : start + size]
        examples = [request["examples"][index] for index in batch]
        rows = annotator.annotate(examples, request["generator"])
        # Written aside and renamed, so that an interruption keeps the previous answers.
        part = answers.with_suffix(".part")
        if annotator.save(part):
            sync_tree(part)
            part.replace(answers)
        failed = [index for index, row in zip(batch, rows, strict=True) if preference(row) is None]
        _emit({"judged": len(batch) - len(failed)})
        missing.extend(failed)
        if len(failed) == size:
            # The judge is down or rejects every request: do not pay for the rest.
            return [*missing, *indices[start + size :]]
    return missing


def _result(request: dict[str, Any], failures: "_FirstFailure") -> dict[str, Any]:
    """Read the preferences back from disk, where they have ten decimals, as a rerun does."""
    annotator = _annotator(request, failures)
    rows = annotator.annotate(request["examples"], request["generator"])
    result: dict[str, Any] = {"preferences": [preference(row) for row in rows]}
    if request["length_file"] is not None:
        result["length_controlled"] = length_controlled_win_rate(rows, request["length_file"])
    return result


def _annotator(request: dict[str, Any], failures: "_FirstFailure") -> Annotator:
    folder = Path(request["annotator"])
    return Annotator(folder, folder / ANSWERS, request["concurrency"], failures.note)


class _FirstFailure(logging.Handler):
    """Keeps the first reason for a missing answer, from exceptions and alpaca_eval's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != logger.name:
            error = record.exc_info[1] if record.exc_info else None
            self.note(f"{record.getMessage()} {error or ''}")

    def note(self, reason: str) -> None:
        self.reason = self.reason or " ".join(reason.split())[:300]


class _EventHandler(logging.Handler):
    """Sends log messages to the parent process, those of libraries at level DEBUG."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelno if record.name == logger.name else logging.DEBUG
        _emit({"level": level, "message": record.getMessage()})


def _emit(event: dict[str, Any]) -> None:
    os.write(1, (json.dumps(event) + "\n").encode())


def main(request: Path, result: Path) -> None:
    """Read a request, run it and write its result."""
    # Standard output is reserved for events.
    sys.stdout = sys.stderr
    content = run(json.loads(request.read_text(encoding="utf-8")))
    result.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
