"""Many variants of a family through one engine, without a checkpoint on disk.

Starting an engine costs more than answering does where models are small or questions few. So one
engine is started on the config alone, and each variant is merged in memory and put into it, rounded
as a folder would hold it: answers equal those of a new engine on the written checkpoint.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mergegrid.checkpoints.publish import recorded_libraries
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import together
from mergegrid.study.generation.answering import frame, generate, longest, prepare, unanswered
from mergegrid.study.generation.backend import Engine, Swappable, identity
from mergegrid.study.generation.merged import Merger, Models
from mergegrid.study.generation.store import AnswerStore
from mergegrid.study.generation.tokens import Prompts
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
    """The answers of every variant; only those that the store lacks are generated.

    Args:
        models: the family.
        recipes: the variants.
        digest_of: what stands for the weights and tokenizer of a variant in the store.
        asks: the benchmarks.
        questions: by benchmark, with the columns `id`, `instruction` and `prompt`.
        settings: which engine, and how it works.
        store: file of answers already written.
        device: `cpu` or `cuda`.
        gpus: among how many vLLM splits every tensor.

    Returns:
        By digest of the recipe, a table as `answer` gives it.

    Raises:
        CheckpointError: a model is damaged, or is not homologous with the base.
        ConfigError: a recipe does not fit the models, or the engine is not installed.
        DataError: a question leaves no room for an answer.
        GenerationError: the engine does not hold what was merged.
    """
    with TemporaryDirectory() as temporary:
        shell = Path(temporary)
        merger = Merger(models)
        merger.write_shell(shell)
        asked = prepare(Prompts(shell), asks, questions, settings)
        engine = identity(settings, shell, device, gpus)
        answers = AnswerStore(store)
        missing = {
            recipe: unanswered(asked, answers, digest_of(recipe), engine)
            for recipe in dict.fromkeys(recipes)
        }
        wanted = [recipe for recipe, requests in missing.items() if requests]
        logger.info("%d variants, %d to ask", len(missing), len(wanted))
        if wanted:
            folders = [models.base, *models.experts.values()]
            libraries = together(map(recorded_libraries, folders))
            backend = _open(engine, settings, shell, device, longest(asked), merger)
            try:
                for recipe in wanted:
                    start = time.monotonic()
                    backend.load(recipe.model_dump_json())
                    seconds = time.monotonic() - start
                    logger.info("%s: merged and loaded in %.1f s", recipe.slug, seconds)
                    generate(
                        backend,
                        missing[recipe],
                        answers,
                        digest_of(recipe),
                        libraries,
                        recipe.slug,
                    )
            finally:
                backend.close()
    return {recipe.digest: frame(asked, answers, digest_of(recipe), engine) for recipe in missing}


def _open(
    engine: Engine,
    settings: Generation,
    shell: Path,
    device: str,
    length: int,
    merger: Merger,
) -> Swappable:
    if engine["backend"] == "transformers":
        from mergegrid.study.generation.transformers_backend import VariantBackend

        return VariantBackend(engine, settings, shell, device, merger.weights)
    from mergegrid.study.generation.vllm_backend import VllmBackend

    return VllmBackend(engine, settings, shell, length, merger)
