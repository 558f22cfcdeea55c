"""Asking a model all its questions, and going on where a killed run stopped."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mergegrid.checkpoints.publish import recorded_libraries
from mergegrid.errors import DataError
from mergegrid.hashing import canonical_json, digest
from mergegrid.progress import progress
from mergegrid.stages import Libraries, libraries_of, together
from mergegrid.study.generation.backend import Backend, Engine, Request, identity, open_backend
from mergegrid.study.generation.store import AnswerStore
from mergegrid.study.generation.tokens import Prompts
from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation

STAGE_VERSIONS = {"generate": 1}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """One question of a benchmark, ready to be asked."""

    benchmark: str
    id: str
    request: Request


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
    """The answers of a model; only those that the store lacks are generated.

    Args:
        model: folder of the model.
        model_digest: stands for its weights and tokenizer in the store.
        asks: the benchmarks.
        questions: by benchmark, with the columns `id`, `instruction` and `prompt`.
        settings: which engine, and how it works.
        store: file of answers already written.
        device: `cpu` or `cuda`.
        gpus: among how many vLLM splits every tensor.

    Returns:
        A row per answer, as asked: `benchmark`, `id`, `sample`, `prompt_digest`, `output`,
        `finish`, `tokens`, `engine`, `libraries`.

    Raises:
        CheckpointError: the model's tokenizer does not fit it.
        ConfigError: the engine is not installed, or more is asked for than the model allows.
        DataError: a question leaves no room for an answer.
    """
    asked = prepare(Prompts(model), asks, questions, settings)
    engine = identity(settings, model, device, gpus)
    answers = AnswerStore(store)
    missing = unanswered(asked, answers, model_digest, engine)
    logger.info("%d questions, %d to answer", len(asked), len(missing))
    if missing:
        backend = open_backend(settings, model, device, gpus, longest(asked))
        try:
            libraries = recorded_libraries(model)
            generate(backend, missing, answers, model_digest, libraries, f"answers of {model.name}")
        finally:
            backend.close()
    return frame(asked, answers, model_digest, engine)


def prepare(
    prompts: Prompts,
    asks: Sequence[Ask],
    questions: Mapping[str, pd.DataFrame],
    settings: Generation,
) -> list[Question]:
    """All questions as tokens, in the order asked.

    Raises:
        DataError: a question leaves no room for an answer.
    """
    room = prompts.longest(settings.max_model_len)
    found = []
    for ask in asks:
        table = questions[ask.benchmark]
        for name, instruction, prompt in zip(
            table["id"], table["instruction"], table["prompt"], strict=True
        ):
            ids = prompts.chat(instruction) if ask.chat else prompts.encode(prompt)
            if len(ids) >= room:
                raise DataError(
                    f"question {name} of {ask.benchmark} has {len(ids)} tokens, and {room} are "
                    f"the most for it and its answer; {prompts.remedy(settings.max_model_len)}, "
                    "or leave the question out"
                )
            # No engine writes beyond the longest text, so none is asked to.
            limit = min(ask.sampling.max_tokens, room - len(ids))
            sampling = ask.sampling.model_copy(update={"max_tokens": limit})
            found.append(Question(ask.benchmark, str(name), Request(ids, sampling)))
    return found


def longest(asked: Sequence[Question]) -> int:
    """Tokens of the longest question with its answer."""
    requests = (question.request for question in asked)
    return max(len(request.ids) + request.sampling.max_tokens for request in requests)


def unanswered(
    asked: Sequence[Question], answers: AnswerStore, model_digest: str, engine: Engine
) -> list[Request]:
    """The requests that the store has no answer to; equal ones once."""
    requests = dict.fromkeys(question.request for question in asked)
    return [each for each in requests if answers.get(model_digest, each, engine) is None]


def generate(
    backend: Backend,
    missing: Sequence[Request],
    answers: AnswerStore,
    model_digest: str,
    libraries: Libraries,
    what: str,
) -> None:
    """Have requests answered, and keep every answer as soon as it is there.

    Args:
        backend: the engine, with the model in it.
        missing: the requests.
        answers: where the answers are kept.
        model_digest: stands for the model's weights and tokenizer in the store.
        libraries: versions of the libraries behind the model.
        what: name of the work, for its progress.
    """
    libraries = together([libraries, libraries_of("merge", "generate")])
    for index, found in progress(backend.generate(missing), what, len(missing)):
        answers.add(model_digest, missing[index], backend.engine, found, libraries)


def frame(
    asked: Sequence[Question], answers: AnswerStore, model_digest: str, engine: Engine
) -> pd.DataFrame:
    """The answers of a model as a table, a row per sample."""
    text = canonical_json(dict(engine))
    rows = []
    for question in asked:
        found = answers.get(model_digest, question.request, engine)
        assert found is not None, f"question {question.id} was not answered"
        for sample, completion in enumerate(found.completions):
            rows.append(
                {
                    "benchmark": question.benchmark,
                    "id": question.id,
                    "sample": sample,
                    "prompt_digest": digest(list(question.request.ids)),
                    "output": completion.text,
                    "finish": completion.finish,
                    "tokens": completion.tokens,
                    "engine": text,
                    "libraries": canonical_json(found.libraries),
                }
            )
    columns = {
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
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)
