"""Decoders as mergers, transformers and vLLM read them: safetensors, a config and a tokenizer.

Weights that are safetensors already are cloned or linked, or copied where the file system can do
neither.
`pytorch_model.bin` is read without running what is in it, and streamed. GGUF is dequantised to
float32, which costs the memory of the model.
"""

import copy
import logging
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mergegrid import fsync
from mergegrid.checkpoints import model_files, pytorch_files, safetensors_files
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.digests import LEAF, TensorDigests
from mergegrid.checkpoints.dtypes import Stored, is_finite
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.location import shards
from mergegrid.checkpoints.publish import Draft, publish
from mergegrid.checkpoints.tensor_names import canonical, read_config
from mergegrid.checkpoints.writer import ShardWriter
from mergegrid.errors import CheckpointError

STAGE_VERSIONS = {"import_decoder": 1}

logger = logging.getLogger(__name__)

_SHARD_SIZE = 5_000_000_000
_GGUF = ".gguf"


def import_decoder(
    source: Path, folder: Path, made_from: dict[str, Any], tokenizer: Path | None = None
) -> None:
    """Publish a decoder.

    Args:
        source: a folder with safetensors, with `pytorch_model.bin` or with one GGUF file, or that
            file itself.
        folder: where it is published.
        made_from: what the manifest says of its origin.
        tokenizer: a folder to take the tokenizer from instead.

    Raises:
        CheckpointError: the source is no model, is damaged, or holds values that are not finite.
    """
    quantised = _gguf_file(source)
    with publish(folder, made_from) as draft:
        if quantised is not None:
            _dequantise(quantised, draft.path)
            _describe_weights(draft, source)
        else:
            model_files.copy_files(source, model_files.config_files(source), draft.path)
            model_files.copy_files(source, model_files.tokenizer_files(source), draft.path)
            if safetensors_files.present(source):
                canonical(open_checkpoint(source), read_config(source), str(source))
                _link_weights(source, draft.path)
                _describe_weights(draft, source)
            else:
                checkpoint = canonical(open_checkpoint(source), read_config(source), str(source))
                write_weights(draft, checkpoint, str(source))
        if tokenizer is not None:
            for name in model_files.tokenizer_files(draft.path):
                (draft / name).unlink()
            model_files.copy_files(tokenizer, model_files.tokenizer_files(tokenizer), draft.path)


def write_weights(draft: Draft, checkpoint: Checkpoint, what: str) -> None:
    """Write a checkpoint, `what` in messages, into a draft as it is stored, run by run.

    Raises:
        CheckpointError: a value is not finite, or the disk has no room.
    """
    writer = ShardWriter(draft.path, checkpoint.infos, _SHARD_SIZE)
    try:
        writer.open()
        for name, start, stored in _finite_runs(checkpoint, what):
            writer.write(name, start, stored)
    finally:
        writer.close()
    draft.weight_files, draft.tensors = writer.files, writer.tensors()


def _describe_weights(draft: Draft, source: Path) -> None:
    """Read the weights that lie in a draft, and note their digests for the manifest."""
    checkpoint = open_checkpoint(draft.path)
    digests = TensorDigests(checkpoint.infos)
    for name, start, stored in _finite_runs(checkpoint, str(source)):
        digests.add(name, start, stored)
    draft.weight_files = {
        path.name: {"bytes": path.stat().st_size, "header": safetensors_files.header_digest(path)}
        for path in sorted(draft.path.glob("*.safetensors"))
    }
    draft.tensors = digests.tensors()


def _finite_runs(checkpoint: Checkpoint, what: str) -> Iterator[tuple[str, int, Stored]]:
    """All elements of a checkpoint as stored: tensor, first element, a run of at most 4 MB."""
    for name, info in checkpoint.infos.items():
        room = np.empty(min(16 * LEAF, info.count), info.dtype.numpy)
        for start in range(0, info.count, max(room.size, 1)):
            stop = min(start + room.size, info.count)
            stored = checkpoint.read(name, start, stop, room[: stop - start])
            if not is_finite(stored, info.dtype):
                raise CheckpointError(
                    f"{name} of {what} holds values that are not finite; the checkpoint is damaged "
                    "or the training broke down: fetch it again, or lower the learning rate"
                )
            yield name, start, stored


def _link_weights(source: Path, folder: Path) -> None:
    """Safetensors files under their names, without a copy where that is possible.

    A file system with copies on write gives a file of its own at no cost. Elsewhere it is one file
    under two names: a copy would double what a model takes, and both the hub's library and this
    one replace files rather than write into them. Whoever does write into one changes both; a
    merge notices, as it compares the digest of every tensor that it reads with the manifest's.
    """
    paths = [*shards(source, safetensors_files.SINGLE, safetensors_files.INDEX)]
    if paths != [source / safetensors_files.SINGLE]:
        paths.append(source / safetensors_files.INDEX)
    for path in paths:
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        if not fsync.clone(path, target):
            try:
                os.link(path.resolve(), target)
            # Another file system, or one without links.
            except OSError:
                shutil.copyfile(path, target)


def _gguf_file(source: Path) -> Path | None:
    """The GGUF file that a source is or holds, where it has no other weights."""
    if source.is_file():
        if source.suffix != _GGUF:
            raise CheckpointError(f"{source} is no GGUF file; name the folder of the model")
        return source
    files = sorted(source.glob(f"*{_GGUF}"))
    if not files or safetensors_files.present(source) or pytorch_files.present(source):
        return None
    if len(files) > 1:
        raise CheckpointError(
            f"{source} holds {len(files)} GGUF files ({', '.join(path.name for path in files)}); "
            "name one of them"
        )
    return files[0]


def _dequantise(file: Path, folder: Path) -> None:
    """Save what a GGUF file holds as float32, with its tokenizer and chat template.

    Half precision would round away what a short fine-tuning changes.
    """
    import torch  # Slow to start with, and nothing else here needs it.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("%s is dequantised to float32", file.name)
    try:
        quantised: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ImportError, LookupError, OSError, RuntimeError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{file} cannot be dequantised: {error}; give the model as safetensors"
        ) from error
    config = copy.deepcopy(quantised.config)
    # It is not quantised any more, and a model that says so refuses to be saved.
    del config.quantization_config
    with torch.device("meta"):
        model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder, max_shard_size=_SHARD_SIZE)
    tokenizer.save_pretrained(folder)
