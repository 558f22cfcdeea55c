"""How much memory a decoder takes, by the number of its parameters: on the GPU and beside it.

Estimates, on the side of too much. Jobs state them (`mem_mb`), fine-tuning refuses by them, and
docs/gpus.md shows them. What activations and caches take depends on batches and lengths, and is
not among them.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

_MB = 1_000_000
_PROCESS = 3000 * _MB
"""Python with torch, transformers and CUDA, in one process."""
_FLOAT32 = 4
_GRADIENT_AND_MOMENTS = 12
"""Bytes per trained parameter: its gradient and the two moments of AdamW, in float32."""
_COPY = 2
"""Bytes per parameter of the copy that computes in bfloat16."""


@dataclass(frozen=True)
class Size:
    """What a model weighs."""

    parameters: int
    """Elements of all tensors."""
    stored: int
    """Their bytes as stored."""


def size_of(folder: Path) -> Size:
    """The size of a model in safetensors, by the headers of its files; nothing without a model.

    Read with the standard library alone, for a dry run asks, too.
    """
    parameters = stored = 0
    try:
        for path in folder.glob("*.safetensors"):
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            parameters += sum(math.prod(tensor["shape"]) for tensor in header.values())
            for start, stop in (tensor["data_offsets"] for tensor in header.values()):
                stored += stop - start
    except (OSError, ValueError, KeyError, struct.error):
        # Whoever reads the model says what is wrong with it.
        return Size(0, 0)
    return Size(parameters, stored)


def finetuning_bytes(parameters: int, trained: int, bfloat16: bool) -> int:
    """Bytes on the device that fine-tuning takes before activations.

    Args:
        parameters: of the whole model.
        trained: those that are trained: all, or those of adapters.
        bfloat16: whether it computes in bfloat16.
    """
    each = _FLOAT32 + (_COPY if bfloat16 else 0)
    return each * parameters + _GRADIENT_AND_MOMENTS * trained


def finetuning_mb(size: Size, on_gpu: bool, adapters: bool = False) -> int:
    """Megabytes that a fine-tuning job takes of its host.

    Args:
        size: of the base.
        on_gpu: whether it computes there.
        adapters: whether it trains adapters alone, which are taken for 5 % of the parameters.
    """
    # Loaded in float32, moved to the GPU, and moved back to be written.
    whole = _FLOAT32 * size.parameters
    if not on_gpu:
        trained = size.parameters // 20 if adapters else size.parameters
        whole = 2 * finetuning_bytes(size.parameters, trained, bfloat16=True)
    return _rounded(_PROCESS + 1.25 * whole)


def generation_bytes(parameters: int, dtype_size: int) -> int:
    """Bytes on the device that a model takes to answer, before its cache of keys and values."""
    return dtype_size * parameters


def generation_mb(size: Size, gpus: int, one_engine: bool) -> int:
    """Megabytes that a job that answers takes of its host.

    Args:
        size: of the base.
        gpus: that its engine is split among; 0 on the CPU.
        one_engine: whether it merges variants in memory.
    """
    processes = 2 + gpus if gpus > 1 else 1
    # The merged model, and another: as transformers loads it, or as the file that ranks map.
    models = (2 if gpus else 3) if one_engine else 2
    return _rounded(processes * _PROCESS + 1.1 * models * size.stored)


def similarity_mb(size: Size, on_gpu: bool) -> int:
    """Megabytes that comparing the embeddings of a decoder takes of its host."""
    computed = 0 if on_gpu else _FLOAT32 * size.parameters
    return _rounded(_PROCESS + 1.25 * (2 * size.stored + computed))


def _rounded(size: float) -> int:
    return math.ceil(size / _MB / 500) * 500
