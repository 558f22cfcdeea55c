"""Answers already written, so that no question is asked twice of the same model and engine."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergegrid.stages import Libraries, stage_versions
from mergegrid.study.generation.backend import Completion, Engine, Request
from mergegrid.study.runtime.journal import Journal


@dataclass(frozen=True)
class Answered:
    """The answers to one request."""

    completions: list[Completion]
    """One per sample."""
    libraries: Libraries
    """Versions of the libraries behind them, training included."""


class AnswerStore:
    """Answers in a journal, found again by model, prompt, sampling and engine."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def get(self, model_digest: str, request: Request, engine: Engine) -> Answered | None:
        """The answers of this model to this request by this engine, if they are known."""
        known = self._journal.get(_inputs(model_digest, request, engine))
        if known is None:
            return None
        completions = [Completion(**each) for each in known["completions"]]
        return Answered(completions, known["libraries"])

    def add(
        self,
        model_digest: str,
        request: Request,
        engine: Engine,
        completions: Sequence[Completion],
        libraries: Libraries,
    ) -> None:
        """Remember the answers to a request, and the libraries behind them, for good."""
        value = {"completions": [asdict(each) for each in completions], "libraries": libraries}
        self._journal.add(_inputs(model_digest, request, engine), value)


def _inputs(model_digest: str, request: Request, engine: Engine) -> dict[str, Any]:
    return {
        "model": model_digest,
        "ids": list(request.ids),
        "sampling": request.sampling.model_dump(mode="json"),
        "engine": dict(engine),
        "versions": stage_versions("generate"),
    }
