"""Merging, inspecting and measuring models from Python.

Example:
    >>> from pathlib import Path
    >>> from mergegrid import api
    >>> api.merge(Path("merge.yaml"), Path("merged"))
    [PosixPath('merged')]
    >>> api.inspect(Path("merged")).verified
    True
    >>> api.deltas(Path("models/llama"), Path("models/llama-math")).verdict
    'DARE applies: 99.2 % of |delta| are below 0.002.'
"""

import logging
from pathlib import Path

from mergegrid.checkpoints.inspection import Inspection, inspect
from mergegrid.deltas.report import DeltaReport, measure
from mergegrid.engine.budget import processors
from mergegrid.merging import carry_out, prepare
from mergegrid.progress import byte_progress
from mergegrid.recipes.merge_file import read_merge_file

logger = logging.getLogger(__name__)

__all__ = ["DeltaReport", "Inspection", "deltas", "inspect", "merge"]


def merge(
    recipe: Path,
    out: Path,
    *,
    dry_run: bool = False,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
) -> list[Path]:
    """Merge the models of a merge file, and publish each result as a folder.

    Args:
        recipe: the merge file.
        out: folder of the merged model, or, where lists ask for several, of their folders.
        dry_run: check everything and say the plan, but write nothing.
        threads: threads to use; by default one for each processor.
        max_memory: bytes that must suffice.
        device: `cpu` or `cuda`; it changes no bit of the result.

    Returns:
        The published folders; none for a dry run.

    Raises:
        MergegridError: anything that users can mend, before anything is written.
    """
    order = prepare(read_merge_file(recipe), recipe, out, threads, max_memory, device)
    count = len(order.recipes)
    for note in order.notes:
        logger.info("%s", note)
    logger.info("%d model%s, %s", count, "" if count == 1 else "s", order.plan)
    if dry_run:
        for folder, each in order.recipes.items():
            logger.info("would write %s: %s", folder, each.slug)
        return []
    with byte_progress("merge", order.plan.reads) as progress:
        return carry_out(order, progress)


def deltas(
    base: Path, expert: Path, *, dtype: str | None = None, threads: int | None = None
) -> DeltaReport:
    """Measure how far an expert is from its base, and whether DARE applies to it.

    Args:
        base: folder of the base.
        expert: folder of the expert.
        dtype: what a merged model would be rounded to; by default the base's own dtype.
        threads: threads to use; by default one for each processor.

    Raises:
        MergegridError: a model is damaged, or the expert was not fine-tuned from this base.
    """
    return measure(base, expert, dtype, threads or processors())
