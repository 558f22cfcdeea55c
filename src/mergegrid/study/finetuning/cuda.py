"""What fine-tuning on a GPU needs beside Trainer: sums in one order, and enough memory."""

import logging
import os

import torch

from mergegrid.errors import ConfigError
from mergegrid.study.runtime.memory_estimates import finetuning_bytes

LENIENT = "MERGEGRID_DETERMINISTIC"
"""Variable that, set to `warn`, lets a GPU compute what it cannot repeat."""

logger = logging.getLogger(__name__)


def prepare_device(device: str) -> None:
    """On a GPU, let sums be added in the same order every time, wherever torch can.

    Attention and other backward passes on CUDA add in any order unless they are told not to, so the
    same seed would give other weights on every run. What torch has no such algorithm for is an
    error, unless `MERGEGRID_DETERMINISTIC=warn` is set: then attention is in any order, too. Matrix
    products need `CUBLAS_WORKSPACE_CONFIG` besides, before CUDA starts.
    """
    if torch.device(device).type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=os.environ.get(LENIENT) == "warn")


def check_memory(model: torch.nn.Module, bfloat16: bool, device: str) -> None:
    """Check that a GPU holds a model, its gradients and moments, before anything is computed.

    Raises:
        ConfigError: it does not, or it cannot compute in bfloat16.
    """
    if torch.device(device).type != "cuda":
        return
    if bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"{torch.cuda.get_device_name()} does not compute in bfloat16; set finetune.precision "
            "to float32, or take a GPU of the Ampere generation or newer"
        )
    counts = [(each.numel(), each.requires_grad) for each in model.parameters()]
    parameters = sum(count for count, _ in counts)
    trained = sum(count for count, learns in counts if learns)
    needed = finetuning_bytes(parameters, trained, bfloat16)
    free, _ = torch.cuda.mem_get_info()
    logger.info("%.1f GB of the GPU's %.1f GB before activations", needed / 1e9, free / 1e9)
    if needed > free:
        raise ConfigError(
            f"to fine-tune {trained / 1e9:.2f} of {parameters / 1e9:.2f} billion parameters takes "
            f"{needed / 1e9:.0f} GB of the GPU before activations, and {free / 1e9:.0f} GB are "
            "free; set finetune.lora, or take a GPU with more (docs/gpus.md)"
        )
