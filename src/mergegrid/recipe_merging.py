"""Merging one recipe of a study into a folder."""

import logging
from collections.abc import Mapping
from pathlib import Path

from mergegrid.merging import carry_out, prepare
from mergegrid.progress import byte_progress
from mergegrid.recipes.merge_file import MergeFile, Output
from mergegrid.recipes.recipe import Recipe

logger = logging.getLogger(__name__)


def merge_recipe(
    recipe: Recipe,
    base: Path,
    experts: Mapping[str, Path],
    output: Output,
    homologous: bool,
    folder: Path,
    threads: int,
) -> None:
    """Merge one recipe and publish it at `folder`.

    Args:
        recipe: what is merged how.
        base: folder of the base.
        experts: folders of its experts by name.
        output: dtype, vocabulary and shards of the folder.
        homologous: whether configurations must agree, and not shapes alone.
        folder: where the model goes.
        threads: threads to use.

    Raises:
        CheckpointError: a model is damaged, or is not homologous with the base.
    """
    asked = MergeFile(
        base=str(base.resolve()),
        experts={name: str(path.resolve()) for name, path in experts.items()},
        sparsifier=recipe.sparsifier.model_dump(exclude_none=True),
        method=recipe.method.model_dump(exclude_none=True),
        output=output,
    )
    order = prepare(asked, base, folder, threads=threads, recipe=recipe, homologous=homologous)
    for note in order.notes:
        logger.info("%s", note)
    with byte_progress(f"merging {recipe.slug}", order.plan.reads) as advance:
        carry_out(order, advance)
