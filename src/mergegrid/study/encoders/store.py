"""Scores already measured, so that no candidate is scored twice with the same inputs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mergegrid.study.runtime.journal import Journal
from mergegrid.study.scoring.scores import Measurement


class ScoreStore:
    """Measurements in a journal, found again by all that they depend on."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def get(self, inputs: dict[str, Any]) -> Measurement | None:
        """The measurement made with these inputs, if there is one.

        One that was stored before predictions were kept is none: it is measured again.
        """
        known = self._journal.get(inputs)
        if known is None or "predictions" not in known:
            return None
        predictions = known["predictions"]
        return Measurement(**known | {"predictions": predictions and tuple(predictions)})

    def add(self, inputs: dict[str, Any], measurement: Measurement) -> None:
        """Remember a measurement for good."""
        self._journal.add(inputs, asdict(measurement))
