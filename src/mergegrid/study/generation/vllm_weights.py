"""What vLLM's workers do to replace a model by a merged one.

vLLM reloads layer by layer: each layer that gets its tensors is laid out anew for its kernels. A
layer without tensors of its own keeps what it had, and only a warning tells. That is so of the
output matrix of a model with tied embeddings, which is tied again here. Any other such layer is
refused, and the output matrix is compared with what was merged.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from safetensors.torch import load_file

from mergegrid.checkpoints.vocabulary import INPUTS, OUTPUTS
from mergegrid.study.generation.backend import GenerationError

_RELOADING = "vllm.model_executor.model_loader.reload.layerwise"


class MergeWorker:
    """Methods that vLLM adds to each of its workers."""

    model_runner: Any
    reload_weights: Any

    def load_variant(self, given: dict[str, torch.Tensor] | str) -> None:
        """Put a merged model in the place of the one before.

        Args:
            given: its tensors by name, or the path of a safetensors file that holds them.

        Raises:
            GenerationError: a layer was not replaced.
        """
        weights = load_file(given) if isinstance(given, str) else given
        model = self.model_runner.get_model()
        # Others, as rotary embeddings, hold constants and get no tensors.
        learned = {type(each).__name__ for each in model.modules() if each._parameters}
        with _left_out() as layers:
            self.reload_weights(weights_iterator=iter(weights.items()), is_checkpoint_format=True)
        owing = learned - _tie_again(model)
        kept = [layer for layer in layers if layer in owing]
        if kept:
            raise GenerationError(
                f"vLLM did not replace its {kept[0]} ({len(kept)} layers keep what they had); set "
                "generation.one_engine to false"
            )
        _check_heads(model, weights)


@contextmanager
def _left_out() -> Iterator[list[str]]:
    """Classes of the layers that got no tensors while the context lasted."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Failed to load weights" in str(record.msg):
                found.append(str(record.args[0] if isinstance(record.args, tuple) else ""))

    handler = Handler(logging.WARNING)
    logger = logging.getLogger(_RELOADING)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _tie_again(model: torch.nn.Module) -> set[str]:
    """Tie output matrices to the embeddings again; gives the classes of those that were."""
    config = getattr(model, "config", None)
    if not getattr(config, "tie_word_embeddings", False):
        return set()
    heads, embeddings = _vocabulary(model)
    (embedding,) = embeddings
    for head in heads:
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)
    return {type(head).__name__ for head in heads}


def _check_heads(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Check that what multiplies the last states is what was merged."""
    matrix = _matrix(weights, OUTPUTS)
    if matrix is None:
        matrix = _matrix(weights, INPUTS)
    for head in _vocabulary(model)[0]:
        own = head.weight
        rows = head.shard_indices
        start, stop = rows.org_vocab_start_index, rows.org_vocab_end_index
        assert matrix is not None, "a language model has embeddings"
        # Two columns: the whole matrix would not find room on a GPU that vLLM has filled.
        wanted = matrix[start:stop, :2].to(own.device, own.dtype)
        states = torch.eye(2, own.shape[1], device=own.device, dtype=own.dtype)
        found = head.quant_method.apply(head, states)[:, : stop - start]
        if not torch.equal(found, wanted.T):
            raise GenerationError(
                "vLLM's output matrix is not that of the merged model; set generation.one_engine "
                "to false"
            )


def _vocabulary(model: torch.nn.Module) -> tuple[list[Any], list[Any]]:
    """Layers of the output and of the input that have a row per token."""
    layers: Any = import_module("vllm.model_executor.layers.vocab_parallel_embedding")
    found = [each for each in model.modules() if isinstance(each, layers.VocabParallelEmbedding)]
    heads = [each for each in found if isinstance(each, layers.ParallelLMHead)]
    return heads, [each for each in found if each not in heads]


def _matrix(weights: Mapping[str, torch.Tensor], modules: tuple[str, ...]) -> torch.Tensor | None:
    ends = tuple(f".{module}.weight" for module in modules)
    return next((each for name, each in weights.items() if f".{name}".endswith(ends)), None)
