"""A journal: results appended to a file as soon as they are known, and found again by a key.

One JSON line per entry; a line that a crash cut is dropped on opening:

    {"key": "1f0c...", "value": {"output": "The answer is: 5", "tokens": 7}}
"""

import json
import os
from pathlib import Path
from typing import Any

from mergegrid.errors import DataError
from mergegrid.provenance import digest


class Journal:
    """An append-only file of JSON values by key, for one writer at a time.

    Raises:
        DataError: a whole line of the file is no entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        text = path.read_bytes()
        # A crash cuts the last line; what was whole before it stays.
        whole = text.rfind(b"\n") + 1
        for number, line in enumerate(text[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["value"]
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"line {number} of {path} is no entry of a journal: {line[:40]!r}; "
                    "remove the line, and what it held is found again"
                ) from error
        os.truncate(path, whole)

    def get(self, inputs: Any) -> Any | None:
        """The value found with these inputs, if there is one."""
        return self._known.get(digest(inputs))

    def add(self, inputs: Any, value: Any) -> None:
        """Remember a value for good."""
        key = digest(inputs)
        self._known[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")
