"""Memory that a decoder needs on the GPU and on the host, estimated from its parameter count.

The estimates are upper bounds without activations and caches, which depend on batch size and
length. Jobs declare them (`mem_mb`), fine-tuning refuses to start above them, and docs/gpus.md
lists them.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

_MB = 1_000_000
_PROCESS = 3000 * _MB
"""One process with Python, torch, transformers and CUDA."""
_FLOAT32 = 4
_GRADIENT_AND_MOMENTS = 12
"""Bytes per trained parameter: its gradient and the two moments of AdamW, in float32."""
_COPY = 2
"""Bytes per parameter of the bfloat16 copy used for computing."""


@dataclass(frozen=True)
class Size:
    """Size of a model."""

    parameters: int
    """Elements of all tensors."""
    stored: int
    """Bytes of all tensors as stored."""
    largest: int = 0
    """Elements of the largest tensor."""


def size_of(folder: Path) -> Size:
    """Return the size of a safetensors model from its file headers; zero if there is no model.

    Uses the standard library only, because dry runs call it too.
    """
    parameters = stored = largest = 0
    try:
        for path in folder.glob("*.safetensors"):
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            counts = [math.prod(tensor["shape"]) for tensor in header.values()]
            parameters += sum(counts)
            largest = max([largest, *counts])
            for start, stop in (tensor["data_offsets"] for tensor in header.values()):
                stored += stop - start
    except (OSError, ValueError, KeyError, struct.error):
        # The job that reads the model reports what is wrong with it.
        return Size(0, 0)
    return Size(parameters, stored, largest)


def finetuning_bytes(
    parameters: int, trained: int, bfloat16: bool, towards_base: bool = False
) -> int:
    """Return the device memory of fine-tuning without activations, in bytes.

    Args:
        parameters: number of all parameters.
        trained: number of trained parameters: all, or those of adapters.
        bfloat16: whether fine-tuning computes in bfloat16.
        towards_base: whether it keeps the values of the base.
    """
    copies = (_COPY if bfloat16 else 0) + (_FLOAT32 if towards_base else 0)
    weights = (_FLOAT32 + copies) * parameters
    return weights + _GRADIENT_AND_MOMENTS * trained


def finetuning_mb(size: Size, on_gpu: bool, adapters: bool = False) -> int:
    """Return the host memory of a fine-tuning job, in megabytes.

    Args:
        size: size of the base.
        on_gpu: whether the job computes on a GPU.
        adapters: whether it trains adapters only, taken as 5 % of the parameters.
    """
    # Loaded in float32, moved to the GPU, and moved back for saving.
    model = _FLOAT32 * size.parameters
    if not on_gpu:
        trained = size.parameters // 20 if adapters else size.parameters
        model = 2 * finetuning_bytes(size.parameters, trained, bfloat16=True)
    return _rounded_mb(_PROCESS + 1.25 * model)


def generation_mb(size: Size, gpus: int, one_engine: bool) -> int:
    """Return the host memory of a generation job, in megabytes.

    Args:
        size: size of the base.
        gpus: number of GPUs that the engine is split over; 0 on the CPU.
        one_engine: whether the job merges variants in memory.
    """
    processes = 2 + gpus if gpus > 1 else 1
    # The merged model, and a second copy: the model in transformers, or the file that ranks map.
    models = (2 if gpus else 3) if one_engine else 2
    return _rounded_mb(processes * _PROCESS + 1.1 * models * size.stored)


def similarity_mb(size: Size, on_gpu: bool) -> int:
    """Return the host memory for comparing a decoder's embeddings, in megabytes."""
    computed = 0 if on_gpu else _FLOAT32 * size.parameters
    return _rounded_mb(_PROCESS + 1.25 * (2 * size.stored + computed))


def statistics_mb(size: Size) -> int:
    """Return the host memory of gathering a decoder's statistics, in megabytes.

    One part of the model is in memory, its embeddings or a block, with gradients and sums: 24 bytes
    per parameter. A block is taken as a sixteenth of the model.
    """
    part = max(size.largest, size.parameters // 16)
    return _rounded_mb(1.5 * _PROCESS + 24 * part)


def _rounded_mb(size: float) -> int:

    return math.ceil(size / _MB / 500) * 500
