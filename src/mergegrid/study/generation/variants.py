"""Answers of many variants of a family through one engine, without checkpoints on disk.

With small models or few questions, starting an engine costs more than answering. So one engine is
started on the config alone, and each variant is merged in memory and loaded into it, rounded as a
folder would hold it: answers equal those of a new engine on the written checkpoint.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mergegrid.checkpoints.publish import recorded_libraries
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import union_of_versions
from mergegrid.study.generation.answering import AnswerJob, Answers
from mergegrid.study.generation.backend import SwappableBackend
from mergegrid.study.generation.merged import Merger, Models

logger = logging.getLogger(__name__)


def answer_variants(
    models: Models, recipes: Sequence[Recipe], digest_of: Callable[[Recipe], str], job: AnswerJob
) -> dict[str, pd.DataFrame]:
    """Answer benchmarks with every variant; only answers missing from the store are generated.

    Args:
        models: the family.
        recipes: the variants.
        digest_of: digest of the weights and tokenizer of a variant; part of the store's key.
        job: the benchmarks and the engine.

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
        answers = Answers(shell, job)
        digests = {recipe: digest_of(recipe) for recipe in recipes}
        pending = [recipe for recipe in digests if answers.missing(digests[recipe])]
        logger.info("%d variants, %d with questions to answer", len(digests), len(pending))
        if pending:
            folders = [models.base, *models.experts.values()]
            libraries = union_of_versions(map(recorded_libraries, folders))
            backend = _open(shell, answers, job, merger)
            try:
                for recipe in pending:
                    start = time.monotonic()
                    backend.load(recipe.model_dump_json())
                    seconds = time.monotonic() - start
                    logger.info("%s: merged and loaded in %.1f s", recipe.slug, seconds)
                    answers.generate(backend, digests[recipe], libraries, recipe.slug)
            finally:
                backend.close()
    return {recipe.digest: answers.table(digests[recipe]) for recipe in digests}


def _open(shell: Path, answers: Answers, job: AnswerJob, merger: Merger) -> SwappableBackend:
    if answers.engine["backend"] == "transformers":
        from mergegrid.study.generation.transformers_backend import VariantBackend

        return VariantBackend(answers.engine, job.settings, shell, job.device, merger.weights)
    from mergegrid.study.generation.vllm_backend import VllmBackend

    return VllmBackend(answers.engine, job.settings, shell, answers.longest, merger)
