"""Answering the questions of benchmarks with a model, resuming where a killed run stopped."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mergegrid.checkpoints.publish import recorded_libraries
from mergegrid.errors import DataError
from mergegrid.hashing import canonical_json, digest
from mergegrid.progress import progress
from mergegrid.stages import Libraries, library_versions, union_of_versions
from mergegrid.study.generation.backend import Backend, EngineIdentity, GenerationRequest
from mergegrid.study.generation.engines import engine_identity, open_backend
from mergegrid.study.generation.store import AnswerStore
from mergegrid.study.generation.tokens import PromptTokenizer
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
class TokenizedQuestion:
    """A question of a benchmark as tokens, with its sampling parameters."""

    benchmark: str
    id: str
    request: GenerationRequest


def answer(
    model: Path,
    model_digest: str,
    asks: Sequence[Ask],
    questions: Mapping[str, pd.DataFrame],
    settings: Generation,
    store: Path,
    device: str,
    gpus: int,
) -> pd.DataFrame:
    """Answer benchmarks with a model; only answers missing from the store are generated.

    Args:
        model: folder of the model.
        model_digest: digest of its weights and tokenizer; part of the store's key.
        asks: the benchmarks.
        questions: by benchmark, with the columns `id`, `instruction` and `prompt`.
        settings: the engine and its options.
        store: file of the answers written so far.
        device: `cpu` or `cuda`.
        gpus: number of GPUs that vLLM splits every tensor over.

    Returns:
        A row per answer with the columns in `COLUMNS`, in the order of benchmarks and questions.

    Raises:
        CheckpointError: the model's tokenizer does not fit it.
        ConfigError: the engine is not installed, or `max_model_len` exceeds the model's limit.
        DataError: a question leaves no room for an answer.
    """
    tokenized = tokenize(PromptTokenizer(model), asks, questions, settings)
    engine = engine_identity(settings, model, device, gpus)
    answers = AnswerStore(store)
    missing = unanswered(tokenized, answers, model_digest, engine)
    logger.info("%d questions, %d to answer", len(tokenized), len(missing))
    if missing:
        backend = open_backend(settings, model, device, gpus, longest(tokenized))
        try:
            libraries = recorded_libraries(model)
            label = f"answers of {model.name}"
            generate_answers(backend, missing, answers, model_digest, libraries, label)
        finally:
            backend.close()
    return answer_frame(tokenized, answers, model_digest, engine)


def tokenize(
    prompts: PromptTokenizer,
    asks: Sequence[Ask],
    questions: Mapping[str, pd.DataFrame],
    settings: Generation,
) -> list[TokenizedQuestion]:
    """Convert all questions to tokens, in the order of the benchmarks.

    Raises:
        DataError: a question leaves no room for an answer.
    """
    limit = prompts.max_length(settings.max_model_len)
    tokenized = []
    for ask in asks:
        table = questions[ask.benchmark]
        for name, instruction, prompt in zip(
            table["id"], table["instruction"], table["prompt"], strict=True
        ):
            ids = prompts.chat(instruction) if ask.chat else prompts.encode(prompt)
            if len(ids) >= limit:
                raise DataError(
                    f"question {name} of {ask.benchmark} has {len(ids)} tokens, but the limit for "
                    f"a question with its answer is {limit}; "
                    f"{prompts.remedy(settings.max_model_len)}, or leave the question out"
                )
            # No engine generates beyond the model's limit.
            max_tokens = min(ask.sampling.max_tokens, limit - len(ids))
            sampling = ask.sampling.model_copy(update={"max_tokens": max_tokens})
            request = GenerationRequest(ids, sampling)
            tokenized.append(TokenizedQuestion(ask.benchmark, str(name), request))
    return tokenized


def longest(questions: Sequence[TokenizedQuestion]) -> int:
    """Return the number of tokens of the longest question with its answer."""
    requests = (question.request for question in questions)
    return max(len(request.ids) + request.sampling.max_tokens for request in requests)


def unanswered(
    questions: Sequence[TokenizedQuestion],
    answers: AnswerStore,
    model_digest: str,
    engine: EngineIdentity,
) -> list[GenerationRequest]:
    """Return the distinct requests without a stored answer."""
    requests = dict.fromkeys(question.request for question in questions)
    return [request for request in requests if answers.get(model_digest, request, engine) is None]


def generate_answers(
    backend: Backend,
    missing: Sequence[GenerationRequest],
    answers: AnswerStore,
    model_digest: str,
    libraries: Libraries,
    label: str,
) -> None:
    """Generate the answers to requests, and store each as soon as it is finished.

    Args:
        backend: the engine, with the model loaded.
        missing: the requests.
        answers: the store.
        model_digest: digest of the model's weights and tokenizer; part of the store's key.
        libraries: versions of the libraries behind the model.
        label: description for the progress bar.
    """
    libraries = union_of_versions([libraries, library_versions("merge", "generate")])
    for index, completions in progress(backend.generate(missing), label, len(missing)):
        answers.add(model_digest, missing[index], backend.engine, completions, libraries)


def answer_frame(
    questions: Sequence[TokenizedQuestion],
    answers: AnswerStore,
    model_digest: str,
    engine: EngineIdentity,
) -> pd.DataFrame:
    """Return the stored answers to questions as a table, a row per sample."""
    engine_json = canonical_json(dict(engine))
    rows = []
    for question in questions:
        stored = answers.get(model_digest, question.request, engine)
        assert stored is not None, f"question {question.id} was not answered"
        for sample, completion in enumerate(stored.completions):
            rows.append(
                {
                    "benchmark": question.benchmark,
                    "id": question.id,
                    "sample": sample,
                    "prompt_digest": digest(list(question.request.ids)),
                    "output": completion.text,
                    "finish": completion.finish,
                    "tokens": completion.tokens,
                    "engine": engine_json,
                    "libraries": canonical_json(stored.libraries),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
