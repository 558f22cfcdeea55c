"""Gathering the statistics of an expert: one pass over training examples for all numbers of them.

Examples are the first of the `train` split, which is shuffled; so the examples of a smaller file
are among those of a larger one. The folder holds one file for each kind, arithmetic and number:

    fisher~exact~1024.safetensors   manifest.json   regmean~exact~256.safetensors   ...
"""

import logging
import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.model_statistics import STATISTICS
from mergegrid.checkpoints.publish import publish, published_digest
from mergegrid.errors import DataError
from mergegrid.hashing import canonical_json
from mergegrid.progress import progress
from mergegrid.stages import library_versions, stage_versions
from mergegrid.study.encoders.importing import load_classifier
from mergegrid.study.model_statistics.fisher import ExactFisher, ReferenceFisher
from mergegrid.study.model_statistics.gatherer import Gatherer
from mergegrid.study.model_statistics.grams import Grams
from mergegrid.study.schema.encoder_jobs import Statistic, StatisticsRequest
from mergegrid.study.tasks.encoding import Batch, batches, encode
from mergegrid.study.tasks.examples import examples_digest

STAGE_VERSIONS = {"statistics": 1}

logger = logging.getLogger(__name__)

#: Examples of a batch in the code of arXiv 2311.03099, which its numbers depend on.
REFERENCE_BATCH = 16
# Examples among which those of similar length are brought together. Sums are taken block by block,
# so numbers that are multiples of it do not depend on which others are asked for.
_BLOCK = 64
_MAX_TOKENS = {"cpu": 1024, "cuda": 16384}


def gather(
    base: Path,
    expert: Path,
    request: StatisticsRequest,
    examples: pd.DataFrame,
    folder: Path,
    device: str = "cpu",
) -> None:
    """Gather what a request asks for of an expert, and publish it at `folder`.

    Args:
        base: published base, whose tensors the statistics are about: heads are not merged.
        expert: published expert.
        request: its task and the files to write.
        examples: prepared examples of the task.
        folder: where the files go.
        device: `cpu` or `cuda`.

    Raises:
        DataError: there are fewer training examples than asked for.
    """
    train = examples[examples["split"] == "train"]
    largest = max(each.examples for each in request.statistics)
    if largest > len(train):
        raise DataError(
            f"statistics of {expert} are asked for from {largest} training examples and task "
            f"{request.target.task} has {len(train)}; lower `examples` of the method, or raise "
            "`sizes.train` of the task"
        )
    made_from = {
        "base": published_digest(base),
        "expert": published_digest(expert),
        "examples": examples_digest(examples),
        "request": request.model_dump(mode="json"),
        "device": device,
        "versions": stage_versions("statistics"),
        "libraries": library_versions("statistics"),
    }
    tokenizer = AutoTokenizer.from_pretrained(expert)
    # No more than are looked at: the training examples of a task may be many times as many.
    train = train.head(math.ceil(largest / REFERENCE_BATCH) * REFERENCE_BATCH)
    encoded = encode(tokenizer, train, request.target.max_length)
    labels = torch.as_tensor(train["label"].to_numpy(), device=device)
    names = list(open_checkpoint(base))
    with publish(folder, made_from) as draft:
        for (kind, arithmetic), group in _groups(request.statistics):
            files = {each.examples: each.file for each in group}
            model = cast(torch.nn.Module, load_classifier(expert)).to(device).eval()
            gatherer = _gatherer(kind, arithmetic, model, names, request.target.is_regression)
            work = list(_work(tokenizer, encoded, arithmetic, sorted(files), device))
            what = f"{kind} ({arithmetic}) of {request.target.task}"
            for batch, finished in progress(work, what, len(work)):
                gatherer.add(batch, labels[batch.rows])
                for count in finished:
                    says = {
                        "kind": kind,
                        "arithmetic": arithmetic,
                        "examples": count,
                        "expert": made_from["expert"],
                    }
                    metadata = {STATISTICS: canonical_json(says)}
                    save_file(gatherer.tensors(count), draft / files[count], metadata)


def _groups(statistics: list[Statistic]) -> Iterable[tuple[tuple[str, str], Iterator[Statistic]]]:
    """Files of one kind and arithmetic, which one pass gathers."""

    def key(each: Statistic) -> tuple[str, str]:
        return each.kind, each.arithmetic

    return groupby(sorted(statistics, key=key), key)


def _gatherer(
    kind: str, arithmetic: str, model: torch.nn.Module, names: list[str], regression: bool
) -> Gatherer:
    if kind == "regmean":
        return Grams(model, names, padding=arithmetic == "reference")
    if arithmetic == "reference":
        return ReferenceFisher(model, names, regression, REFERENCE_BATCH)
    return ExactFisher(model, names, regression)


def _work(
    tokenizer: Any,
    encoded: list[dict[str, list[int]]],
    arithmetic: str,
    counts: list[int],
    device: str,
) -> Iterator[tuple[Batch, list[int]]]:
    """Batches in order, each with the numbers of examples that are complete with it."""
    if arithmetic == "reference":
        # The first full batches that hold so many.
        ends: dict[int, list[int]] = {math.ceil(count / REFERENCE_BATCH): [] for count in counts}
        for count in counts:
            ends[math.ceil(count / REFERENCE_BATCH)].append(count)
        for number in range(max(ends)):
            start = number * REFERENCE_BATCH
            rows = list(range(start, min(start + REFERENCE_BATCH, len(encoded))))
            padded = tokenizer.pad([encoded[row] for row in rows], return_tensors="pt")
            inputs = {key: tensor.to(device) for key, tensor in padded.items()}
            yield Batch(rows, inputs), ends.get(number + 1, [])
        return
    start = 0
    for stop in sorted({*range(_BLOCK, counts[-1], _BLOCK), *counts}):
        block = list(
            batches(tokenizer, encoded[start:stop], _MAX_TOKENS[torch.device(device).type], device)
        )
        for number, batch in enumerate(block, start=1):
            rows = [start + row for row in batch.rows]
            finished = [stop] if number == len(block) and stop in counts else []
            yield Batch(rows, batch.inputs), finished
        start = stop
