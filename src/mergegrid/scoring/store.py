"""Scores already measured, so that no candidate is scored twice with the same inputs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mergegrid.journal import Journal
from mergegrid.scoring.scores import Measurement


class ScoreStore:
    """Measurements in a journal, found again by all that they depend on."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def get(self, inputs: dict[str, Any]) -> Measurement | None:
        """The measurement made with these inputs, if there is one."""
        known = self._journal.get(inputs)
        return None if known is None else Measurement(**known)

    def add(self, inputs: dict[str, Any], measurement: Measurement) -> None:
        """Remember a measurement for good."""
        self._journal.add(inputs, asdict(measurement))
