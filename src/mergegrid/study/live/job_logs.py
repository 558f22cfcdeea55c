"""Log files of jobs, while they run and when they have failed."""

import re
from pathlib import Path

#: What `progress` writes at the end of a line.
_SECONDS_LEFT = re.compile(r"about (\d+) s left$")
#: Date, time and level at the beginning of a line of a log.
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (?P<level>[A-Z]+) ")
_TAIL_BYTES = 8192


def last_lines(path: str | Path, count: int) -> list[str]:
    """The last lines of a file that are not empty; none if it is missing."""
    try:
        with Path(path).open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(end - _TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line.rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-count:]


def last_message(path: str | Path) -> str:
    """The last line of the log of a running job, without date and level; "" if there is none."""
    lines = last_lines(path, 1)
    return _STAMP.sub("", lines[0]) if lines else ""


def seconds_left(message: str) -> float | None:
    """Seconds that a running job says it still needs."""
    match = _SECONDS_LEFT.search(message)
    return float(match[1]) if match else None


def error_of(lines: list[str]) -> str:
    """What went wrong, by the last lines of a log: the last error, else the last line."""
    for line in reversed(lines):
        match = _STAMP.match(line)
        if match and match["level"] in ("ERROR", "CRITICAL"):
            message = _STAMP.sub("", line)
            # After an unexpected error comes its traceback, whose last line says what it was.
            return lines[-1] if message == "unexpected error" else message
    return lines[-1] if lines else ""
