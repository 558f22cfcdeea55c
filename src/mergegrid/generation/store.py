"""Answers already written, so that no question is asked twice of the same model and engine."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mergegrid.generation.backend import Completion, Engine, Request
from mergegrid.journal import Journal


class AnswerStore:
    """Answers in a journal, found again by model, prompt, sampling and engine."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def get(self, model_digest: str, request: Request, engine: Engine) -> list[Completion] | None:
        """The answers of this model to this request by this engine, if they are known."""
        known = self._journal.get(_inputs(model_digest, request, engine))
        return None if known is None else [Completion(**each) for each in known]

    def add(
        self, model_digest: str, request: Request, engine: Engine, answers: Sequence[Completion]
    ) -> None:
        """Remember the answers to a request for good."""
        inputs = _inputs(model_digest, request, engine)
        self._journal.add(inputs, [asdict(each) for each in answers])


def _inputs(model_digest: str, request: Request, engine: Engine) -> dict[str, Any]:
    return {
        "model": model_digest,
        "ids": list(request.ids),
        "sampling": request.sampling.model_dump(mode="json"),
        "engine": dict(engine),
    }
