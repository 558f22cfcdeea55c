"""A journal: results appended to a file as soon as they are known, and looked up by a key.

One JSON line per entry, ending with 16 digits of the SHA-256 of the bytes before `, "sum"`:

    {"key": "1f0c...", "value": {"output": "The answer is: 5", "tokens": 7}, "sum": "9b1d..."}

Lines without a checksum, from an earlier version, are accepted.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from mergegrid.fsync import sync_tree
from mergegrid.hashing import digest

logger = logging.getLogger(__name__)
_SUM = b', "sum": "'


class Journal:
    """An append-only file of JSON values by key, for one writer at a time.

    Damaged lines are removed on opening, with a warning, and their results are computed again. A
    final line truncated by a crash is dropped silently.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        content = path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        intact = [line for line in lines if self._read_line(line)]
        if damaged := len(lines) - len(intact):
            logger.warning(
                "%d of %d lines of %s are damaged; their results are computed again",
                *(damaged, len(lines), path),
            )
        if (repaired := b"".join(intact)) != content:
            part = path.with_name(f"{path.name}.part")
            part.write_bytes(repaired)
            sync_tree(part)
            part.replace(path)

    def get(self, inputs: Any) -> Any | None:
        """Return the value stored for these inputs, or None."""
        return self._values.get(digest(inputs))

    def add(self, inputs: Any, value: Any) -> None:
        """Store a value; it is in the file on return."""
        key = digest(inputs)
        self._values[key] = value
        body = json.dumps({"key": key, "value": value})[:-1].encode()
        with self._path.open("ab") as file:
            file.write(body + _SUM + f'{_checksum(body)}"}}\n'.encode())

    def _read_line(self, line: bytes) -> bool:
        """Read an entry; return False if the line is not an entry or was altered."""
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            return False
        body = line.rpartition(_SUM)[0]
        if "value" not in entry or (len(entry) > 2 and entry.get("sum") != _checksum(body)):
            return False
        self._values[entry["key"]] = entry["value"]
        return True


def _checksum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]
