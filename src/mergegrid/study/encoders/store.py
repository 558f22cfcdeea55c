"""Store of measured scores, so that no recipe is scored twice with the same inputs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mergegrid.study.runtime.journal import Journal
from mergegrid.study.scoring.scores import Measurement


class ScoreStore:
    """Measurements in a journal, keyed by everything that they depend on."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def get(self, inputs: dict[str, Any]) -> Measurement | None:
        """Return the measurement made with these inputs, if any.

        One that was stored before predictions were kept does not count: it is measured again.
        """
        known = self._journal.get(inputs)
        if known is None or "predictions" not in known:
            return None
        predictions = known["predictions"]
        return Measurement(**known | {"predictions": predictions and tuple(predictions)})

    def add(self, inputs: dict[str, Any], measurement: Measurement) -> None:
        """Store a measurement permanently."""
        self._journal.add(inputs, asdict(measurement))
