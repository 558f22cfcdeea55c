"""Gather the model statistics of a decoder from token sequences, one block in memory at a time.

The weights of a block are read from the files of the model, all sequences go through it, one at a
time and without padding, and its hidden states wait on disk for the next block. So memory depends
neither on the depth of the model nor on the number of sequences, and the numbers depend on neither
batches nor shards. A line states the memory before the work starts.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic_core import to_jsonable_python
from transformers import AutoConfig

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.adapters.adapter import is_adapter
from mergegrid.checkpoints.checkpoint import Checkpoint, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.family import open_family
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import publish, published_digest
from mergegrid.checkpoints.tensor_names import canonical, read_config
from mergegrid.errors import CheckpointError
from mergegrid.stages import library_versions, stage_versions
from mergegrid.study.finetuning.cuda import prepare_device
from mergegrid.study.model_statistics.calibration import TokenSequence, first, read_sequences
from mergegrid.study.model_statistics.decoder_fisher import LOGITS, FisherPass, fisher_slots
from mergegrid.study.model_statistics.decoder_grams import gather_grams, gram_infos
from mergegrid.study.model_statistics.hidden_states import HiddenStates, states_bytes
from mergegrid.study.model_statistics.statistics_writer import StatisticsWriter
from mergegrid.study.model_statistics.streamed_decoder import StreamedDecoder
from mergegrid.study.schema.decoder_jobs import StatisticsRequest
from mergegrid.study.schema.encoder_jobs import Statistic
from mergegrid.study.tasks.examples import examples_digest

STAGE_VERSIONS = {"decoder_statistics": 1}

logger = logging.getLogger(__name__)

#: Buffers of fixed size, in bytes: of chunks in float64, and of libraries.
_BUFFERS = 150_000_000


@dataclass(frozen=True)
class OpenDecoder:
    """A decoder whose statistics are gathered."""

    where: str
    """How messages call it."""
    config: Any
    """Its configuration in transformers."""
    checkpoint: Checkpoint
    """Its tensors under the names of its class."""
    merged: Mapping[str, TensorInfo]
    """The tensors of a merge, which statistics are about."""
    digest: str
    """Digest of the model, for the metadata of files."""


def open_decoder(
    folder: Path,
    base: Path | None = None,
    homologous: bool = True,
    base_is: Sequence[str] = (),
    digest: str = "",
) -> OpenDecoder:
    """Open a whole model, or a LoRA adapter of a base.

    Args:
        folder: the model.
        base: the base that it is merged with, whose tensors statistics are about; by default those
            of the model.
        homologous: whether configurations must agree.
        base_is: further names of the base, for adapters.
        digest: digest of the model.

    Raises:
        CheckpointError: the model is damaged, or not homologous with the base.
    """
    where = f"model {folder}"
    has_config = base if base and is_adapter(folder) else folder
    try:
        config = AutoConfig.from_pretrained(has_config)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{where}: transformers cannot read the configuration of {has_config} "
            f"({str(error).splitlines()[0]}); download the model again, or choose one whose class "
            "is part of transformers"
        ) from error
    if base is None:
        checkpoint = canonical(open_checkpoint(folder), read_config(folder), where)
        return OpenDecoder(where, config, checkpoint, checkpoint.infos, digest)
    family = open_family(base, {"expert": folder}, homologous=homologous, base_is=base_is)
    merged = family.aligned.base.infos
    return OpenDecoder(where, config, family.opened["expert"], merged, digest)


def gather_decoder(
    base: Path,
    expert: Path,
    request: StatisticsRequest,
    examples: pd.DataFrame,
    folder: Path,
    device: str = "cpu",
) -> None:
    """Gather model statistics of an expert of a study, and publish them at `folder`.

    Args:
        base: published base; statistics cover its tensors.
        expert: published expert, a whole model or a LoRA adapter.
        request: the files, and how texts are read.
        examples: table with the column `text`, or with `instruction` and `output`; with a column
            `split`, the training examples count.
        folder: where the files go.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: the model cannot be split into blocks, or lacks a parameter.
        ConfigError: the disk is too small.
        DataError: there are too few examples.
    """
    digest = published_digest(expert)
    made_from = {
        "base": published_digest(base),
        "expert": digest,
        "examples": examples_digest(examples),
        "request": to_jsonable_python(request),
        "device": device,
        "versions": stage_versions("decoder_statistics"),
        "libraries": library_versions("decoder_statistics"),
    }
    model = open_decoder(expert, base, request.homologous, request.base_is, digest)
    tokenizer = expert if model_files.tokenizer_files(expert) else base
    count = max(statistic.examples for statistic in request.statistics)
    sequences = read_sequences(tokenizer, examples, request, count)
    with publish(folder, made_from) as draft:
        files = {draft.path / statistic.file: statistic for statistic in request.statistics}
        gather_files(model, sequences, files, device)


def gather_files(
    model: OpenDecoder,
    sequences: Sequence[TokenSequence],
    files: Mapping[Path, Statistic],
    device: str = "cpu",
) -> None:
    """Gather files of model statistics, each from the first sequences that have counted tokens.

    Args:
        model: the model.
        sequences: what it reads.
        files: what is gathered, by path.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: the model cannot be split into blocks, or lacks a parameter.
        ConfigError: the disk is too small.
        DataError: there are too few sequences.
    """
    used = first(sequences, max(file.examples for file in files.values()), model.where)
    prepare_device(device)
    decoder = StreamedDecoder(model.config, model.checkpoint, model.where, device)
    for kind in sorted({file.kind for file in files.values()}):
        group = {path: file for path, file in files.items() if file.kind == kind}
        count = max(file.examples for file in group.values())
        infos = _infos(decoder, model, kind)
        slots = fisher_slots(decoder.depth) if kind == "fisher" else 1
        lengths = [len(sequence.ids) for sequence in used[:count]]
        _state_needs(decoder, kind, lengths, slots)
        with ExitStack() as stack:
            writers = {}
            for path, file in group.items():
                contents = {
                    "kind": kind,
                    "arithmetic": file.arithmetic,
                    "examples": file.examples,
                    "expert": model.digest,
                }
                writer = StatisticsWriter(path, infos, contents)
                writers[file.examples] = stack.enter_context(writer)
            place = next(iter(group)).parent
            states = HiddenStates(place, slots, lengths, decoder.parts.width)
            stack.callback(states.close)
            if kind == "fisher":
                FisherPass(decoder, used[:count], writers, states).run()
            else:
                gather_grams(decoder, used[:count], writers, infos, states)


def _infos(decoder: StreamedDecoder, model: OpenDecoder, kind: str) -> dict[str, TensorInfo]:
    """The tensors of a file."""
    if kind == "regmean":
        return gram_infos(decoder, list(model.merged))
    unused = [name for name in model.merged if name not in decoder.parts.shapes]
    if unused:
        logger.info(
            "%s: %d tensors are not parameters of its class and have no information, first %s",
            model.where,
            len(unused),
            unused[0],
        )
    return {name: TensorInfo(info.shape, DTYPES["float32"]) for name, info in model.merged.items()}


def _state_needs(decoder: StreamedDecoder, kind: str, lengths: Sequence[int], slots: int) -> None:
    logger.info(
        "%s of %d sequences of at most %d tokens: %.0f MB of memory besides libraries, and %.0f MB "
        "of disk for hidden states",
        kind,
        len(lengths),
        max(lengths),
        needed_bytes(decoder, kind, max(lengths)) / 1e6,
        states_bytes(slots, lengths, decoder.parts.width) / 1e6,
    )


def needed_bytes(decoder: StreamedDecoder, kind: str, longest: int) -> int:
    """Upper bound of the memory for a kind of statistics, besides that of the process.

    Of the largest part of the model: weights (4 bytes per parameter) with a copy of the largest
    tensor as stored; for `fisher` gradients (two times 4) and sums (8); for `regmean` a sum (8) and
    products (4 and 4) of each Gram matrix; and activations of the longest sequence.
    """
    parts = decoder.parts
    counts = {name: math.prod(shape) for name, shape in parts.shapes.items()}

    def size(names: Sequence[str]) -> int:
        return sum(counts[name] for name in names)

    def largest(names: Sequence[str]) -> int:
        return max((counts[name] for name in names), default=0)

    between = 4 * size(parts.between_names)
    needed = 8 * size(parts.outer_names) + 4 * largest(parts.outer_names)
    needed += 4 * size(parts.block_names[0])
    for index, names in enumerate(parts.block_names):
        weights = between + 4 * size(names) + 4 * largest(names)
        activations = _activation_bytes(decoder, index, longest)
        if kind == "fisher":
            work = 12 * size(names) + 4 * largest(names)
        else:
            widths = [layer.in_features for layer in decoder.linear_layers(index).values()]
            work = sum(8 * width**2 for width in widths) + 8 * max(widths, default=0) ** 2
        needed = max(needed, weights + work + activations)
    if kind == "fisher":
        vocabulary = parts.shapes[parts.head_name][0]
        logits = min(LOGITS, longest) * vocabulary * 48
        outer = [name for name in parts.outer_names if name != parts.embedding_name]
        for names in ([parts.embedding_name], outer):
            tail = 4 * size(parts.tail_names) if parts.is_tied else 0
            needed = max(needed, tail + 20 * size(names) + 4 * largest(names) + logits)
    else:
        needed = max(needed, between + 16 * parts.width**2)
    return needed + _BUFFERS


def _activation_bytes(decoder: StreamedDecoder, index: int, tokens: int) -> int:
    """Activations of one sequence in a block, twice what its linear layers get and give."""
    modules = decoder.parts.block_modules(index).values()
    weights: list[Any] = [getattr(module, "weight", None) for module in modules]
    widths = sum(sum(weight.shape) for weight in weights if weight is not None)
    heads = getattr(decoder.parts.config, "num_attention_heads", 1)
    return 4 * tokens * (2 * widths + 8 * decoder.parts.width) + 12 * heads * tokens**2
