"""Scores already measured, so that no candidate is scored twice with the same inputs.

One JSON line per score, appended as soon as it is known:

    {"key": "1f0c...", "value": 0.9025, "stderr": 0.0148, "n": 400}
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mergegrid.provenance import digest
from mergegrid.scoring.classifier import Measurement


class ScoreStore:
    """An append-only file of measurements; a line cut by a crash is dropped on opening."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Measurement] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        text = path.read_bytes()
        # A crash cuts the last line; what was whole before it stays.
        whole = text.rfind(b"\n") + 1
        for line in text[:whole].splitlines():
            entry = json.loads(line)
            key = entry.pop("key")
            self._known[key] = Measurement(**entry)
        os.truncate(path, whole)

    def get(self, inputs: dict[str, Any]) -> Measurement | None:
        """The measurement made with these inputs, if there is one."""
        return self._known.get(digest(inputs))

    def add(self, inputs: dict[str, Any], measurement: Measurement) -> None:
        """Remember a measurement for good."""
        key = digest(inputs)
        self._known[key] = measurement
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **asdict(measurement)}) + "\n")
