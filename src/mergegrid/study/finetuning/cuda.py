"""Determinism and memory on a GPU, which the Trainer does not take care of."""

import logging
import os

import torch

from mergegrid.errors import ConfigError
from mergegrid.study.runtime.memory_estimates import finetuning_bytes

LENIENT = "MERGEGRID_DETERMINISTIC"
"""Environment variable; `warn` permits operations that are not deterministic on a GPU."""

logger = logging.getLogger(__name__)


def prepare_device(device: str) -> None:
    """On a GPU, use deterministic algorithms.

    By default, attention and other backward passes on CUDA add in any order, so that the same seed
    gives different weights on every run. Operations without a deterministic algorithm raise an
    error unless `MERGEGRID_DETERMINISTIC=warn` is set; then attention is not deterministic either.
    Matrix products also need `CUBLAS_WORKSPACE_CONFIG`, set before CUDA starts.
    """
    if torch.device(device).type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=os.environ.get(LENIENT) == "warn")


def check_memory(
    model: torch.nn.Module, bfloat16: bool, device: str, towards_base: bool = False
) -> None:
    """Check that a GPU has enough memory for a model, its gradients and its moments.

    Raises:
        ConfigError: the GPU has too little free memory, or does not support bfloat16.
    """
    if torch.device(device).type != "cuda":
        return
    if bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"{torch.cuda.get_device_name()} does not support bfloat16; set finetune.precision to "
            "float32, or use a GPU of the Ampere generation or newer"
        )
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    needed = finetuning_bytes(total, trained, bfloat16, towards_base)
    free, _ = torch.cuda.mem_get_info()
    logger.info("%.1f GB of the GPU's %.1f GB before activations", needed / 1e9, free / 1e9)
    if needed > free:
        raise ConfigError(
            f"fine-tuning {trained / 1e9:.2f} of {total / 1e9:.2f} billion parameters needs "
            f"{needed / 1e9:.0f} GB of GPU memory before activations, but only {free / 1e9:.0f} GB "
            "are free; set finetune.lora, or use a GPU with more memory (docs/gpus.md)"
        )
