"""Stored answers, so that a model and engine never answer a request twice."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergegrid.stages import Libraries, stage_versions
from mergegrid.study.generation.backend import Completion, EngineIdentity, GenerationRequest
from mergegrid.study.runtime.journal import Journal


@dataclass(frozen=True)
class StoredAnswer:
    """The answer to one request."""

    completions: list[Completion]
    """One per sample."""
    libraries: Libraries
    """Versions of the libraries behind them, including training."""


class AnswerStore:
    """A journal of answers by model, prompt, sampling and engine."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def get(
        self, model_digest: str, request: GenerationRequest, engine: EngineIdentity
    ) -> StoredAnswer | None:
        """Return the stored answer of this model and engine to this request, or None."""
        value = self._journal.get(_key(model_digest, request, engine))
        if value is None:
            return None
        completions = [Completion(**fields) for fields in value["completions"]]
        return StoredAnswer(completions, value["libraries"])

    def add(
        self,
        model_digest: str,
        request: GenerationRequest,
        engine: EngineIdentity,
        completions: Sequence[Completion],
        libraries: Libraries,
    ) -> None:
        """Store the answer to a request and the libraries behind it."""
        value = {
            "completions": [asdict(completion) for completion in completions],
            "libraries": libraries,
        }
        self._journal.add(_key(model_digest, request, engine), value)


def _key(model_digest: str, request: GenerationRequest, engine: EngineIdentity) -> dict[str, Any]:
    return {
        "model": model_digest,
        "ids": list(request.ids),
        "sampling": request.sampling.model_dump(mode="json"),
        "engine": dict(engine),
        "versions": stage_versions("generate"),
    }
