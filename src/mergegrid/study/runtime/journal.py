"""A journal: results appended to a file as soon as they are known, and found again by a key.

One JSON line per entry, which ends with 16 digits of the SHA-256 of what stands before:

    {"key": "1f0c...", "value": {"output": "The answer is: 5", "tokens": 7}, "sum": "9b1d..."}

Lines of before there were sums, without one, are taken as they are.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from mergegrid.fsync import settle
from mergegrid.hashing import digest

_log = logging.getLogger(__name__)
_SUM = b', "sum": "'


class Journal:
    """An append-only file of JSON values by key, for one writer at a time.

    Lines that are damaged are removed on opening, with a warning, and what they held is unknown. So
    is, without a word, a last line that a crash cut.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        text = path.read_bytes()
        # A crash cuts the last line; what was whole before it stays.
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        good = [line for line in lines if self._take(line)]
        if len(good) < len(lines):
            _log.warning(
                "%d of %d lines of %s are damaged; what they held is done again",
                len(lines) - len(good),
                len(lines),
                path,
            )
        whole = b"".join(good)
        if whole != text:
            part = path.with_name(f"{path.name}.part")
            part.write_bytes(whole)
            settle(part)
            part.replace(path)

    def _take(self, line: bytes) -> bool:
        """Learn an entry; false where the line is none, or not as it was written."""
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            return False
        before = line.rpartition(_SUM)[0]
        if "value" not in entry or (len(entry) > 2 and entry.get("sum") != _sum(before)):
            return False
        self._known[entry["key"]] = entry["value"]
        return True

    def get(self, inputs: Any) -> Any | None:
        """The value found with these inputs, if there is one."""
        return self._known.get(digest(inputs))

    def add(self, inputs: Any, value: Any) -> None:
        """Remember a value for good."""
        key = digest(inputs)
        self._known[key] = value
        body = json.dumps({"key": key, "value": value})[:-1].encode()
        with self._path.open("ab") as file:
            file.write(body + _SUM + f'{_sum(body)}"}}\n'.encode())


def _sum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]
