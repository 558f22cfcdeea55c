"""Gather the model statistics of an expert: one pass over training examples for all its files.

Examples are the first of the shuffled `train` split, so a smaller file covers a subset of a larger
one's. The folder holds one file per kind, arithmetic and number of examples:

    fisher~exact~1024.safetensors   manifest.json   regmean~exact~256.safetensors   ...
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from pydantic_core import to_jsonable_python
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
from mergegrid.study.model_statistics.accumulator import Accumulator
from mergegrid.study.model_statistics.fisher import ExactFisher, ReferenceFisher
from mergegrid.study.model_statistics.grams import GramMatrices
from mergegrid.study.schema.encoder_jobs import Statistic
from mergegrid.study.schema.tasks import Target
from mergegrid.study.tasks.encoding import Batch, batches, encode
from mergegrid.study.tasks.examples import examples_digest

STAGE_VERSIONS = {"statistics": 1}

#: Batch size of the code of arXiv 2311.03099, which its numbers depend on.
REFERENCE_BATCH = 16
# Examples are sorted by length within blocks. Sums are added block by block, so files whose number
# of examples is a multiple of a block do not depend on which other files are gathered.
_BLOCK = 64
_MAX_TOKENS = {"cpu": 1024, "cuda": 16384}


def gather(
    base: Path,
    expert: Path,
    target: Target,
    statistics: Sequence[Statistic],
    examples: pd.DataFrame,
    folder: Path,
    device: str = "cpu",
) -> None:
    """Gather model statistics of an expert and publish them at `folder`.

    Args:
        base: published base; statistics cover its tensors, since heads are not merged.
        expert: published expert.
        target: the task of the expert.
        statistics: the files to write.
        examples: prepared examples of the task.
        folder: where the files go.
        device: `cpu` or `cuda`.

    Raises:
        DataError: there are fewer training examples than requested.
    """
    train = examples[examples["split"] == "train"]
    largest = max(statistic.examples for statistic in statistics)
    if largest > len(train):
        raise DataError(
            f"statistics of {expert} need {largest} training examples, but task "
            f"{target.task} has {len(train)}; lower `examples` of the method, or raise "
            "`sizes.train` of the task"
        )
    made_from = {
        "base": published_digest(base),
        "expert": published_digest(expert),
        "examples": examples_digest(examples),
        "request": to_jsonable_python({"target": target, "statistics": list(statistics)}),
        "device": device,
        "versions": stage_versions("statistics"),
        "libraries": library_versions("statistics"),
    }
    tokenizer = AutoTokenizer.from_pretrained(expert)
    # Encode only what is used: a task may have many times as many examples.
    train = train.head(math.ceil(largest / REFERENCE_BATCH) * REFERENCE_BATCH)
    encoded = encode(tokenizer, train, target.max_length)
    labels = torch.as_tensor(train["label"].to_numpy(), device=device)
    names = list(open_checkpoint(base))

    def pass_of(statistic: Statistic) -> tuple[str, str]:
        return statistic.kind, statistic.arithmetic

    with publish(folder, made_from) as draft:
        for (kind, arithmetic), group in groupby(sorted(statistics, key=pass_of), pass_of):
            files = {statistic.examples: statistic.file for statistic in group}
            model = cast(torch.nn.Module, load_classifier(expert)).to(device).eval()
            accumulator = _accumulator(kind, arithmetic, model, names, target.is_regression)
            work = list(_batches(tokenizer, encoded, arithmetic, sorted(files), device))
            what = f"{kind} ({arithmetic}) of {target.task}"
            for batch, complete in progress(work, what, len(work)):
                accumulator.add(batch, labels[batch.rows])
                for count in complete:
                    contents = {
                        "kind": kind,
                        "arithmetic": arithmetic,
                        "examples": count,
                        "expert": made_from["expert"],
                    }
                    metadata = {STATISTICS: canonical_json(contents)}
                    save_file(accumulator.tensors(count), draft / files[count], metadata)


def _accumulator(
    kind: str, arithmetic: str, model: torch.nn.Module, names: list[str], regression: bool
) -> Accumulator:
    if kind == "regmean":
        return GramMatrices(model, names, padding=arithmetic == "reference")
    if arithmetic == "reference":
        return ReferenceFisher(model, names, regression, REFERENCE_BATCH)
    return ExactFisher(model, names, regression)


def _batches(
    tokenizer: Any,
    encoded: list[dict[str, list[int]]],
    arithmetic: str,
    counts: list[int],
    device: str,
) -> Iterator[tuple[Batch, list[int]]]:
    """Yield batches in order, each with the numbers of examples that it completes."""
    if arithmetic == "reference":
        # A number of examples is complete with the first full batches that cover it.
        for number in range(1, math.ceil(counts[-1] / REFERENCE_BATCH) + 1):
            start = (number - 1) * REFERENCE_BATCH
            rows = list(range(start, min(start + REFERENCE_BATCH, len(encoded))))
            padded = tokenizer.pad([encoded[row] for row in rows], return_tensors="pt")
            inputs = {key: tensor.to(device) for key, tensor in padded.items()}
            complete = [count for count in counts if math.ceil(count / REFERENCE_BATCH) == number]
            yield Batch(rows, inputs), complete
        return
    start = 0
    for stop in sorted({*range(_BLOCK, counts[-1], _BLOCK), *counts}):
        max_tokens = _MAX_TOKENS[torch.device(device).type]
        block = list(batches(tokenizer, encoded[start:stop], max_tokens, device))
        for number, batch in enumerate(block, start=1):
            rows = [start + row for row in batch.rows]
            complete = [stop] if number == len(block) and stop in counts else []
            yield Batch(rows, batch.inputs), complete
        start = stop
