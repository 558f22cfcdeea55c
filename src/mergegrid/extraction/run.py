"""Extracting an adapter from Python, and for the command line."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mergegrid.checkpoints.header_folders import header_folders
from mergegrid.checkpoints.publish import check_place
from mergegrid.checkpoints.sources.models import Folder, Models, locate_models
from mergegrid.errors import HeadersOnlyError
from mergegrid.extraction.extract import ExtractionJob
from mergegrid.extraction.factorizer import MODEL
from mergegrid.extraction.low_rank import RankRule, rank_rule
from mergegrid.extraction.report import ExtractionReport
from mergegrid.progress import byte_progress
from mergegrid.recipes.output import byte_limit

logger = logging.getLogger(__name__)


def extract(
    base: Folder,
    model: Folder,
    out: Folder,
    *,
    rank: int | None = None,
    energy: float | None = None,
    max_rank: int | None = None,
    embeddings: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    base_is: str | Sequence[str] = (),
    threads: int | None = None,
    max_memory: int | str | None = None,
) -> ExtractionReport:
    """Extract a LoRA adapter from a fine-tuned model: its deltas, at low rank.

    Args:
        base: folder or hub id of the base.
        model: folder or hub id of the fine-tuned model, whole or an adapter.
        out: folder of the adapter.
        rank: rank of the factors of every matrix, or
        energy: share of the squared delta that every matrix keeps, at the lowest rank.
        max_rank: the largest rank with an energy; by default 512.
        embeddings: whether input and output embeddings are adapted, too.
        seed: seed of the random matrices.
        dtype: dtype of the factors.
        base_is: further names of the base, for a model that is an adapter and names it otherwise.
        threads: number of threads, which change no byte; by default one per processor.
        max_memory: memory limit, in bytes or as in `1GiB`.

    Returns:
        What the adapter holds of the delta of every tensor.

    Raises:
        MergegridError: the models or settings do not fit; nothing is written then.
    """
    job = extraction_job(base, model, out, rank_rule(rank, energy, max_rank), base_is)
    job = replace(job, embeddings=embeddings, seed=seed, dtype=dtype)
    report = run_extraction(job, threads, byte_limit(max_memory, "max_memory"))
    assert report is not None
    return report


def extraction_job(
    base: Folder, model: Folder, out: Folder, rule: RankRule, base_is: str | Sequence[str] = ()
) -> ExtractionJob:
    """The extraction from folders or hub ids; nothing is downloaded yet.

    Raises:
        MergegridError: a model does not exist, or the hub cannot be reached or denies access.
    """
    models = locate_models({"": base, MODEL: model})
    check_place(Path(out).expanduser(), models.folders.values())
    names = (base_is,) if isinstance(base_is, str) else tuple(base_is)
    return ExtractionJob(
        models.base,
        models.experts[MODEL],
        Path(out).expanduser(),
        rule,
        base_is=names,
        hub=models.hub,
    )


def run_extraction(
    job: ExtractionJob,
    threads: int | None = None,
    max_memory: int | None = None,
    dry_run: bool = False,
) -> ExtractionReport | None:
    """Open, plan and write an extraction, with its notes in the log and a progress bar.

    Args:
        job: the extraction.
        threads: number of threads; one per processor if None.
        max_memory: memory limit in bytes.
        dry_run: validate and log the plan; write nothing, download no weights and return None.

    Raises:
        MergegridError: the models or settings do not fit; nothing is written then.
    """
    models = Models({"": job.base, MODEL: job.model}, dict(job.hub))
    if missing := models.missing:
        if not any(files.pickled for files in missing.values()):
            with header_folders(models.folders, missing) as folders, suppress(HeadersOnlyError):
                twin = replace(job, base=folders[""], model=folders[MODEL]).open()
                plan = twin.plan(threads, max_memory)
                if dry_run:
                    _log([*twin.notes, plan])
        if dry_run:
            for files in missing.values():
                size = sum(files.missing.values())
                _log([f"would download {files}: {len(files.missing)} files, {size / 1e9:.3g} GB"])
            return None
    if not dry_run:
        models.download()
    extraction = job.open()
    _log([*extraction.notes, extraction.plan(threads, max_memory)])
    if dry_run:
        return None
    with byte_progress("extract", extraction.bytes) as progress:
        return extraction.write(progress)


def _log(lines: Sequence[object]) -> None:
    for line in lines:
        logger.info("%s", line)
