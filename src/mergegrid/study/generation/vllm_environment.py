"""The environment in which vLLM runs, and its import."""

import os
from importlib import import_module
from typing import Any

from mergegrid.errors import ConfigError

VLLM_ON_GPUS = {
    # Otherwise float32 matrix products of attention have the precision of TF32.
    "TRITON_F32_DEFAULT": "ieee",
    # All processes of an engine are on one machine.
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Environment variables for vLLM on GPUs."""
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "0", **VLLM_ON_GPUS}


def import_vllm(name: str) -> Any:
    """Import a module of vLLM, without usage statistics and with its log in this process's log."""
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return import_module(name)


def refuse_mig() -> None:
    """Refuse MIG partitions: vLLM looks up devices by index, and partitions have none.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES lists a MIG partition.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-"):
        raise ConfigError(
            "vLLM does not support MIG partitions of a GPU; run on whole GPUs, or set "
            "generation.backend to transformers (harness.model to hf)"
        )
