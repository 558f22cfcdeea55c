"""Importing decoders as safetensors with a config and tokenizer, for merging and generation.

Weights in safetensors are cloned or hard-linked, or copied if the file system supports neither.
`pytorch_model.bin` is read without executing its code, and streamed. GGUF is dequantized to
float32, which needs memory for the whole model. A LoRA adapter stays one, and is merged as one.
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
from mergegrid.checkpoints.adapters.adapter import is_adapter, open_adapter_file
from mergegrid.checkpoints.adapters.config import CONFIG, read_adapter_config
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.digests import LEAF, TensorDigests
from mergegrid.checkpoints.dtypes import Stored, is_finite
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.location import shards
from mergegrid.checkpoints.publish import Draft, publish
from mergegrid.checkpoints.tensor_names import canonical, read_config
from mergegrid.checkpoints.writer import ShardWriter
from mergegrid.errors import CheckpointError
from mergegrid.extras import require

STAGE_VERSIONS = {"import_decoder": 1}

logger = logging.getLogger(__name__)

_SHARD_SIZE = 5_000_000_000
_GGUF = ".gguf"


def import_decoder(
    source: Path, folder: Path, made_from: dict[str, Any], tokenizer: Path | None = None
) -> None:
    """Publish a decoder.

    Args:
        source: a folder with safetensors, `pytorch_model.bin`, a LoRA adapter or one GGUF file, or
            a GGUF file.
        folder: where to publish it.
        made_from: origin, recorded in the manifest.
        tokenizer: folder from which to take the tokenizer instead.

    Raises:
        CheckpointError: the source is not a model, is damaged, or contains non-finite values.
    """
    gguf = _gguf_file(source)
    with publish(folder, made_from) as draft:
        if gguf is not None:
            _dequantize(gguf, draft.path)
            _digest_weights(draft, source)
        elif is_adapter(source):
            _import_adapter(source, draft)
        else:
            model_files.copy_files(source, model_files.config_files(source), draft.path)
            model_files.copy_files(source, model_files.tokenizer_files(source), draft.path)
            checkpoint = canonical(open_checkpoint(source), read_config(source), str(source))
            if safetensors_files.present(source):
                _link_weights(source, draft.path)
                _digest_weights(draft, source)
            else:
                write_weights(draft, checkpoint, str(source))
        if tokenizer is not None:
            for name in model_files.tokenizer_files(draft.path):
                (draft / name).unlink()
            model_files.copy_files(tokenizer, model_files.tokenizer_files(tokenizer), draft.path)


def _import_adapter(source: Path, draft: Draft) -> None:
    """Copy an adapter into a draft, with the tokenizer beside it if there is one."""
    read_adapter_config(source)
    (path,) = {at.path for at in open_adapter_file(source).locations.values()}
    files = [CONFIG, path.name, *model_files.tokenizer_files(source)]
    model_files.copy_files(source, files, draft.path)
    checkpoint = open_adapter_file(draft.path)
    if path.suffix == ".safetensors":
        _digest(checkpoint, draft, source)
    else:
        for _ in _finite_chunks(checkpoint, str(source)):
            pass


def write_weights(draft: Draft, checkpoint: Checkpoint, source: str) -> None:
    """Write a checkpoint into a draft in its stored dtypes; `source` appears in messages.

    Raises:
        CheckpointError: a value is not finite, or the disk is full.
    """
    writer = ShardWriter(draft.path, checkpoint.infos, _SHARD_SIZE)
    try:
        writer.open()
        for name, start, stored in _finite_chunks(checkpoint, source):
            writer.write(name, start, stored)
    finally:
        writer.close()
    draft.weight_files, draft.tensors = writer.files, writer.tensors()


def _digest_weights(draft: Draft, source: Path) -> None:
    """Read the weights in a draft and record their digests for the manifest."""
    _digest(open_checkpoint(draft.path), draft, source)


def _digest(checkpoint: Checkpoint, draft: Draft, source: Path) -> None:
    digests = TensorDigests(checkpoint.infos)
    for name, start, stored in _finite_chunks(checkpoint, str(source)):
        digests.add(name, start, stored)
    draft.weight_files = {
        path.name: {"bytes": path.stat().st_size, "header": safetensors_files.header_digest(path)}
        for path in sorted(draft.path.glob("*.safetensors"))
    }
    draft.tensors = digests.tensors()


def _finite_chunks(checkpoint: Checkpoint, source: str) -> Iterator[tuple[str, int, Stored]]:
    """Yield all stored elements: tensor name, first element, and a chunk of at most 4 MB."""
    for name, info in checkpoint.infos.items():
        buffer = np.empty(min(16 * LEAF, info.count), info.dtype.numpy)
        for start in range(0, info.count, max(buffer.size, 1)):
            stop = min(start + buffer.size, info.count)
            stored = checkpoint.read(name, start, stop, buffer[: stop - start])
            if not is_finite(stored, info.dtype):
                raise CheckpointError(
                    f"{name} of {source} contains non-finite values: the checkpoint is damaged or "
                    "training diverged; download it again, or lower the learning rate"
                )
            yield name, start, stored


def _link_weights(source: Path, folder: Path) -> None:
    """Put the safetensors files of a model into a folder, without copying them if possible.

    A clone is an independent file at no cost. Where the file system has no clones, files are
    hard-linked: a copy would double the disk space of a model, and both the hub's library and this
    one replace files rather than write into them. A program that does write into one of the names
    changes both; merges detect that, because they compare the digest of every tensor with the
    manifest.
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
            except OSError:  # Another file system, or one without hard links.
                shutil.copyfile(path, target)


def _gguf_file(source: Path) -> Path | None:
    """The GGUF file that a source is or contains, if it has no other weights."""
    if source.is_file():
        if source.suffix != _GGUF:
            raise CheckpointError(f"{source} is not a GGUF file; specify the model folder")
        return source
    files = sorted(source.glob(f"*{_GGUF}"))
    if not files or safetensors_files.present(source) or pytorch_files.present(source):
        return None
    if len(files) > 1:
        raise CheckpointError(
            f"{source} contains {len(files)} GGUF files: specify one of "
            f"{', '.join(path.name for path in files)}"
        )
    return files[0]


def _dequantize(file: Path, folder: Path) -> None:
    """Save the model of a GGUF file as float32, with its tokenizer and chat template.

    Half precision would round away the changes of a short fine-tuning.
    """
    for library in ("gguf", "torch", "transformers"):
        require(library)
    import torch  # Slow to import, and needed for GGUF only.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("dequantizing %s to float32", file.name)
    try:
        quantized: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ImportError, LookupError, OSError, RuntimeError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{file} cannot be dequantized: {error}; use a safetensors version of the model"
        ) from error
    config = copy.deepcopy(quantized.config)
    # transformers refuses to save a model whose config says that it is quantized.
    del config.quantization_config
    with torch.device("meta"):
        model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder, max_shard_size=_SHARD_SIZE)
    tokenizer.save_pretrained(folder)
