"""One compiled model for all variants of an architecture.

vLLM compiles a model once and finds it again by a hash of its configuration, of which the path of
the model's folder is a part. Variants of a family lie in different folders and are one program, so
each would be compiled anew. Here the path is left out of the hash; all else stays in it.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from mergegrid.study.generation.backend import import_vllm


def share_compiled_models() -> None:
    """Leave the path of a model out of what vLLM finds compiled models by."""
    model_config = import_vllm("vllm.config").ModelConfig
    if not hasattr(model_config.compute_hash, "__wrapped__"):
        model_config.compute_hash = _without_path(model_config.compute_hash)


def _without_path(compute_hash: Callable[[Any], str]) -> Callable[[Any], str]:
    @wraps(compute_hash)
    def without(config: Any) -> str:
        path = config.model
        try:
            config.model = ""
            return compute_hash(config)
        finally:
            config.model = path

    return without
