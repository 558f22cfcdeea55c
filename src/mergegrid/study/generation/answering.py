"""Answering the questions of benchmarks with a model, resuming where a killed run stopped."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mergegrid.checkpoints.publish import recorded_libraries
from mergegrid.errors import DataError
from mergegrid.hashing import canonical_json, digest
from mergegrid.progress import progress
from mergegrid.stages import Libraries, library_versions, stage_versions, union_of_versions
from mergegrid.study.generation.backend import Backend, EngineIdentity, GenerationRequest
from mergegrid.study.generation.engines import engine_identity, open_backend
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation

STAGE_VERSIONS = {"generate": 1}
#: Column and type of a table of answers, a row per sample.
COLUMNS = {
    "benchmark": "string",
    "id": "string",
    "sample": "int64",
    "prompt_digest": "string",
    "output": "string",
    "finish": "string",
    "tokens": "int64",
    "engine": "string",
    "libraries": "string",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerJob:
    """Benchmarks to answer, and the engine to answer them with."""

    asks: Sequence[Ask]
    """The benchmarks."""
    questions: Mapping[str, pd.DataFrame]
    """Questions by benchmark, with the columns `id`, `instruction` and `prompt`."""
    settings: Generation
    """The engine and its options."""
    store: Path
    """File of the answers generated so far."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    gpus: int = 0
    """Number of GPUs that vLLM splits every tensor over."""


@dataclass(frozen=True)
class TokenizedQuestion:
    """A question of a benchmark as tokens, with its sampling parameters."""

    benchmark: str
    id: str
    request: GenerationRequest


def answer(model: Path, model_digest: str, job: AnswerJob) -> pd.DataFrame:
    """Answer benchmarks with a model; only answers missing from the store are generated.

    Args:
        model: folder of the model.
        model_digest: digest of its weights and tokenizer; part of the store's key.
        job: the benchmarks and the engine.

    Returns:
        A row per answer with the columns in `COLUMNS`, in the order of benchmarks and questions.

    Raises:
        CheckpointError: the model's tokenizer does not fit it.
        ConfigError: the engine is not installed, or `max_model_len` exceeds the model's limit.
        DataError: a question leaves no room for an answer.
    """
    answers = Answers(model, job)
    missing = answers.missing(model_digest)
    logger.info("%d questions, %d to answer", len(answers.questions), len(missing))
    if missing:
        backend = open_backend(job.settings, model, job.device, job.gpus, answers.longest)
        try:
            label = f"answers of {model.name}"
            answers.generate(backend, model_digest, recorded_libraries(model), label)
        finally:
            backend.close()
    return answers.table(model_digest)


class Answers:
    """The stored answers to the questions of a job.

    Args:
        model: folder with the tokenizer and config of the models that answer.
        job: the benchmarks and the engine.

    Raises:
        CheckpointError: the tokenizer does not fit the model.
        ConfigError: the engine is not installed, or `max_model_len` exceeds the model's limit.
        DataError: a question leaves no room for an answer.
    """

    def __init__(self, model: Path, job: AnswerJob) -> None:
        self.questions = tokenize(PromptTokenizer(model), job)
        self.engine = engine_identity(job.settings, model, job.device, job.gpus)
        self._journal = Journal(job.store)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest question with its answer."""
        requests = [question.request for question in self.questions]
        return max(len(request.ids) + request.sampling.max_tokens for request in requests)

    def missing(self, model_digest: str) -> list[GenerationRequest]:
        """Return the distinct requests that a model has not answered."""
        requests = dict.fromkeys(question.request for question in self.questions)
        return [request for request in requests if self._stored(model_digest, request) is None]

    def generate(
        self, backend: Backend, model_digest: str, libraries: Libraries, label: str
    ) -> None:
        """Generate the missing answers of a model, and store each as soon as it is finished.

        Args:
            backend: the engine, with the model loaded.
            model_digest: digest of the model's weights and tokenizer.
            libraries: versions of the libraries behind the model.
            label: description for the progress bar.
        """
        missing = self.missing(model_digest)
        libraries = union_of_versions([libraries, library_versions("merge", "generate")])
        for index, completions in progress(backend.generate(missing), label, len(missing)):
            stored = {
                "completions": [asdict(completion) for completion in completions],
                "libraries": libraries,
            }
            self._journal.add(answer_key(model_digest, missing[index], backend.engine), stored)

    def table(self, model_digest: str) -> pd.DataFrame:
        """Return the answers of a model, a row per sample."""
        engine = canonical_json(dict(self.engine))
        rows = []
        for question in self.questions:
            stored = self._stored(model_digest, question.request)
            assert stored is not None, f"question {question.id} was not answered"
            for sample, completion in enumerate(stored["completions"]):
                rows.append(
                    {
                        "benchmark": question.benchmark,
                        "id": question.id,
                        "sample": sample,
                        "prompt_digest": digest(list(question.request.ids)),
                        "output": completion["text"],
                        "finish": completion["finish"],
                        "tokens": completion["tokens"],
                        "engine": engine,
                        "libraries": canonical_json(stored["libraries"]),
                    }
                )
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)

    def _stored(self, model_digest: str, request: GenerationRequest) -> Any | None:
        return self._journal.get(answer_key(model_digest, request, self.engine))


def answer_key(
    model_digest: str, request: GenerationRequest, engine: EngineIdentity
) -> dict[str, Any]:
    """Return everything that a stored answer depends on."""
    return {
        "model": model_digest,
        "ids": list(request.ids),
        "sampling": request.sampling.model_dump(mode="json"),
        "engine": dict(engine),
        "versions": stage_versions("generate"),
    }


def tokenize(prompts: PromptTokenizer, job: AnswerJob) -> list[TokenizedQuestion]:
    """Convert all questions to tokens, in the order of the benchmarks.

    Raises:
        DataError: a question leaves no room for an answer.
    """
    max_model_len = job.settings.max_model_len
    limit = prompts.max_length(max_model_len)
    tokenized = []
    for ask in job.asks:
        table = job.questions[ask.benchmark]
        for name, instruction, prompt in zip(
            table["id"], table["instruction"], table["prompt"], strict=True
        ):
            if ask.chat:
                ids = prompts.chat(ask.chat_prompt.replace("{instruction}", instruction))
            else:
                ids = prompts.encode(prompt)
            if len(ids) >= limit:
                raise DataError(
                    f"question {name} of {ask.benchmark} has {len(ids)} tokens, but the limit for "
                    f"a question with its answer is {limit}; {prompts.remedy(max_model_len)}, or "
                    "leave the question out"
                )
            # No engine generates beyond the model's limit.
            max_tokens = min(ask.sampling.max_tokens, limit - len(ids))
            sampling = ask.sampling.model_copy(update={"max_tokens": max_tokens})
            request = GenerationRequest(ids, sampling)
            tokenized.append(TokenizedQuestion(ask.benchmark, str(name), request))
    return tokenized
