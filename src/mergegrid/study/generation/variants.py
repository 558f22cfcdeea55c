"""Answers of many variants of a family through one engine, without checkpoints on disk.

With small models or few questions, starting an engine costs more than answering. So one engine is
started on the config alone, and each variant is merged in memory and loaded into it, rounded as a
folder would hold it: answers equal those of a new engine on the written checkpoint.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mergegrid.checkpoints.publish import recorded_libraries
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import union_of_versions
from mergegrid.study.generation.answering import (
    answer_frame,
    generate_answers,
    longest,
    tokenize,
    unanswered,
)
from mergegrid.study.generation.backend import EngineIdentity, SwappableBackend
from mergegrid.study.generation.engines import engine_identity
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.store import AnswerStore
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.schema.decoder_jobs import Ask
from mergegrid.study.schema.generation import Generation

logger = logging.getLogger(__name__)


def answer_variants(
    models: Models,
    recipes: Sequence[Recipe],
    digest_of: Callable[[Recipe], str],
    asks: Sequence[Ask],
    questions: Mapping[str, pd.DataFrame],
    settings: Generation,
    store: Path,
    device: str,
    gpus: int,
) -> dict[str, pd.DataFrame]:
    """Answer benchmarks with every variant; only answers missing from the store are generated.

    Args:
        models: the family.
        recipes: the variants.
        digest_of: digest of the weights and tokenizer of a variant; part of the store's key.
        asks: the benchmarks.
        questions: by benchmark, with the columns `id`, `instruction` and `prompt`.
        settings: the engine and its options.
        store: file of the answers written so far.
        device: `cpu` or `cuda`.
        gpus: number of GPUs that vLLM splits every tensor over.

    Returns:
        By digest of the recipe, a table as `answer` returns it.

    Raises:
        CheckpointError: a model is damaged, or is not homologous with the base.
        ConfigError: a recipe does not fit the models, or the engine is not installed.
        DataError: a question leaves no room for an answer.
        GenerationError: the engine does not hold the merged model.
    """
    with TemporaryDirectory() as temporary:
        shell = Path(temporary)
        merger = Merger(models)
        merger.write_shell(shell)
        tokenized = tokenize(PromptTokenizer(shell), asks, questions, settings)
        engine = engine_identity(settings, shell, device, gpus)
        answers = AnswerStore(store)
        missing = {
            recipe: unanswered(tokenized, answers, digest_of(recipe), engine)
            for recipe in dict.fromkeys(recipes)
        }
        pending = {recipe: requests for recipe, requests in missing.items() if requests}
        logger.info("%d variants, %d with questions to answer", len(missing), len(pending))
        if pending:
            folders = [models.base, *models.experts.values()]
            libraries = union_of_versions(map(recorded_libraries, folders))
            backend = _open(engine, settings, shell, device, longest(tokenized), merger)
            try:
                for recipe, requests in pending.items():
                    start = time.monotonic()
                    backend.load(recipe.model_dump_json())
                    seconds = time.monotonic() - start
                    logger.info("%s: merged and loaded in %.1f s", recipe.slug, seconds)
                    model_digest, label = digest_of(recipe), recipe.slug
                    generate_answers(backend, requests, answers, model_digest, libraries, label)
            finally:
                backend.close()
    return {
        recipe.digest: answer_frame(tokenized, answers, digest_of(recipe), engine)
        for recipe in missing
    }


def _open(
    engine: EngineIdentity,
    settings: Generation,
    shell: Path,
    device: str,
    length: int,
    merger: Merger,
) -> SwappableBackend:
    if engine["backend"] == "transformers":
        from mergegrid.study.generation.transformers_backend import VariantBackend

        return VariantBackend(engine, settings, shell, device, merger.weights)
    from mergegrid.study.generation.vllm_backend import VllmBackend

    return VllmBackend(engine, settings, shell, length, merger)
