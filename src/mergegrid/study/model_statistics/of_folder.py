"""Statistics of a model in a folder, for merges by merge files."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.publish import MANIFEST, published_digest
from mergegrid.checkpoints.sources.models import Folder, local_folder
from mergegrid.errors import ConfigError, DataError
from mergegrid.hashing import digest, file_digest
from mergegrid.study.model_statistics.calibration import read_sequences
from mergegrid.study.model_statistics.decoder_statistics import gather_files, open_decoder
from mergegrid.study.schema.decoder_jobs import StatisticsRequest
from mergegrid.study.schema.encoder_jobs import Statistic

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Texts:
    """How texts are read.

    The file has JSON lines, of raw texts or of instructions:

        {"text": "The film was good."}
        {"instruction": "Is the film good?", "output": "Yes."}
    """

    path: Path
    """The file."""
    examples: int | None = None
    """Number of texts that are used, the first ones; None: all."""
    max_length: int = 1024
    """Tokens after which a text is cut."""
    prompt: str = "{instruction}"
    """Text around each `{instruction}`."""
    chat: bool = False
    """Whether instructions are put in the model's chat template instead."""


def write_statistics(
    model: Folder,
    out: Path,
    kind: Literal["fisher", "regmean"],
    texts: Texts,
    base: Folder | None = None,
    device: str = "cpu",
) -> None:
    """Gather the statistics of a decoder into a file that merge files can name.

    Args:
        model: folder or hub id of the model, or of a LoRA adapter of `base`.
        out: the file, which must not exist.
        kind: the method that needs it.
        texts: what the model reads.
        base: the base that it is merged with, for adapters and for models with other tensors.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: the model is damaged, or cannot be split into blocks.
        ConfigError: the file cannot be written here, or the disk is too small.
        DataError: the texts cannot be read, or are too few.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} is not the name of a safetensors file; end it in .safetensors")
    if out.exists():
        raise ConfigError(f"{out} exists; choose another name or remove it")
    if not out.parent.is_dir():
        raise ConfigError(f"the folder {out.parent} does not exist; create it")
    table = read_texts(texts.path)
    folder = local_folder(model)
    base_folder = None if base is None else local_folder(base)
    opened = open_decoder(folder, base_folder, digest=_digest(folder))
    count = texts.examples or len(table)
    request = StatisticsRequest(
        statistics=[], prompt=texts.prompt, chat=texts.chat, max_length=texts.max_length
    )
    has_tokenizer = bool(model_files.tokenizer_files(folder)) or base_folder is None
    tokenizer = folder if has_tokenizer else base_folder
    assert tokenizer is not None, "a model without a base has a tokenizer of its own"
    sequences = read_sequences(tokenizer, table, request, count)
    if texts.examples is None:
        count = sum(any(sequence.counted[1:]) for sequence in sequences)
        if count < len(table):
            logger.info("%d of %d texts have tokens that count", count, len(table))
    draft = out.with_name(f".{out.name}.draft")
    try:
        statistic = Statistic(kind=kind, arithmetic="exact", examples=max(count, 1))
        gather_files(opened, sequences, {draft: statistic}, device)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def read_texts(path: Path) -> pd.DataFrame:
    """Read JSON lines; see `Texts`.

    Returns:
        A table with the column `text`, or with `instruction` and `output`.

    Raises:
        DataError: the file is missing or empty, or a line is not one of the two.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; correct the path of --texts")
    records: list[dict[str, str]] = []
    kinds: list[tuple[str, ...]] = [("text",), ("instruction", "output")]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        record = _record(line)
        fitting = [keys for keys in kinds if all(isinstance(record.get(key), str) for key in keys)]
        if not fitting:
            raise DataError(
                f"line {number} of {path} is not an object with a `text`, or with an "
                "`instruction` and an `output`, like the lines before it; correct it"
            )
        kinds = fitting[:1]
        records.append({key: record[key] for key in kinds[0]})
    if not records:
        raise DataError(f"{path} has no texts; add some")
    return pd.DataFrame(records)


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _digest(folder: Path) -> str:
    """What identifies a model: its manifest, or the bytes of its weights."""
    if (folder / MANIFEST).is_file():
        return published_digest(folder)
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    return digest({path.name: file_digest(path) for path in sorted(files)})
