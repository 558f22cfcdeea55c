"""Everything that leans on internals of vLLM (0.32), in its engine and in its workers.

`tests/integration/vllm_contract.py` checks that vLLM still has what is used here.

Replacing a model. vLLM reloads weights layer by layer, and each layer that receives tensors is laid
out again for its kernels. A layer that receives none keeps its old weights with only a warning. The
output matrix of a model with tied embeddings is such a layer; it is tied again here. Any other
layer without new tensors is an error, and the output matrix is compared with the merged one.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from safetensors.torch import load_file

from mergegrid.checkpoints.vocabulary import INPUTS, OUTPUTS
from mergegrid.errors import ConfigError
from mergegrid.study.generation.backend import GenerationError
from mergegrid.study.generation.vllm_environment import import_vllm

WORKER = "mergegrid.study.generation.vllm_compat.MergeWorker"
"""Value of `worker_extension_cls`: vLLM adds the methods of this class to each of its workers."""
RELOADING = "vllm.model_executor.model_loader.reload.layerwise"
"""Module, and logger, that reloads weights layer by layer."""
NOT_LOADED = "Failed to load weights"
"""Part of its warning about a layer that keeps its old weights; the argument is the class."""
# Parts of vLLM's messages about a GPU that is too small or partly in use.
_TOO_LITTLE_MEMORY = ("Free memory on device", "KV cache", "cache blocks", "memory profiling")
UNREADABLE = "llvmlite.binding.ffi"
"""Module that breaks vLLM's search for kernels in all loaded modules: its `lib` claims to have
every attribute."""


def share_compiled_models() -> None:
    """Let all variants of an architecture share one compiled model.

    vLLM caches compiled models by a hash of the configuration, which includes the path of the model
    folder. Variants are the same program in different folders, so the path is left out of the hash.
    """
    model_config = import_vllm("vllm.config").ModelConfig
    if not hasattr(model_config.compute_hash, "__wrapped__"):
        model_config.compute_hash = _without_path(model_config.compute_hash)


def _without_path(compute_hash: Callable[[Any], str]) -> Callable[[Any], str]:
    @wraps(compute_hash)
    def hash_without_path(config: Any) -> str:
        path = config.model
        try:
            config.model = ""
            return compute_hash(config)
        finally:
            config.model = path

    return hash_without_path


@contextmanager
def hidden_module(name: str = UNREADABLE) -> Iterator[None]:
    """Hide a loaded module from `sys.modules`; modules that imported it keep it."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


@contextmanager
def explained_memory_errors() -> Iterator[None]:
    """Name the settings that help when a model does not fit into the memory of a GPU.

    Raises:
        ConfigError: in place of vLLM's error about memory.
    """
    try:
        yield
    except (ValueError, RuntimeError, AssertionError) as error:
        if not any(part in str(error) for part in _TOO_LITTLE_MEMORY):
            raise
        raise ConfigError(
            f"vLLM: {str(error).splitlines()[0]}; free the GPU or lower "
            "generation.memory_fraction if others use it, lower generation.max_model_len, or raise "
            "generation.gpus"
        ) from error


def finished_outputs(
    llm: Any, prompts: Sequence[Sequence[int]], parameters: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Generate, and yield the index of each prompt with its output as soon as it is finished."""
    names = llm.enqueue(
        [{"prompt_token_ids": list(ids)} for ids in prompts], list(parameters), use_tqdm=False
    )
    # Names end with a random part, `7-1f0c9a3e`, which outputs lack.
    indices = {name.partition("-")[0]: index for index, name in enumerate(names)}
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                yield indices[output.request_id], output


def replace_model(llm: Any, weights: dict[str, torch.Tensor] | str) -> None:
    """Replace the model of an engine; see `MergeWorker.load_variant`.

    Raises:
        GenerationError: a worker refused the weights, or cached prefixes of the old model remain.
    """
    try:
        llm.collective_rpc("load_variant", args=(weights,))
    except (GenerationError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Errors of workers in other processes arrive as bare exceptions.
        raise GenerationError(f"vLLM did not load the merged model: {error}") from error
    if not llm.reset_prefix_cache():
        raise GenerationError(
            "vLLM did not clear its prefix cache of the previous variant; rerun the job"
        )


def shut_down(llm: Any) -> None:
    """Stop the engine and its workers."""
    llm.llm_engine.engine_core.shutdown()


class MergeWorker:
    """Methods that vLLM adds to each of its workers."""

    model_runner: Any
    reload_weights: Any

    def load_variant(self, source: dict[str, torch.Tensor] | str) -> None:
        """Replace the loaded model by a merged one.

        Args:
            source: the tensors by name, or the path of a safetensors file with them.

        Raises:
            GenerationError: a layer was not replaced.
        """
        weights = load_file(source) if isinstance(source, str) else source
        model = self.model_runner.get_model()
        # Layers without parameters, such as rotary embeddings, hold constants.
        learned = {type(layer).__name__ for layer in model.modules() if layer._parameters}
        with layers_without_tensors() as skipped:
            self.reload_weights(weights_iterator=iter(weights.items()), is_checkpoint_format=True)
        expected = learned - tie_output_matrix(model)
        kept = [layer for layer in skipped if layer in expected]
        if kept:
            raise GenerationError(
                f"vLLM did not replace its {kept[0]} ({len(kept)} layers keep their old weights); "
                "set generation.one_engine to false"
            )
        check_output_matrix(model, weights)


@contextmanager
def layers_without_tensors() -> Iterator[list[str]]:
    """Collect the classes of layers that receive no tensors in this context."""
    layers: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if NOT_LOADED in str(record.msg):
                layers.append(str(record.args[0] if isinstance(record.args, tuple) else ""))

    handler = Handler(logging.WARNING)
    logger = logging.getLogger(RELOADING)
    logger.addHandler(handler)
    try:
        yield layers
    finally:
        logger.removeHandler(handler)


def tie_output_matrix(model: torch.nn.Module) -> set[str]:
    """Tie the output matrix to the embeddings again where the model does so; return its classes."""
    config = getattr(model, "config", None)
    if not getattr(config, "tie_word_embeddings", False):
        return set()
    heads, (embedding,) = _vocabulary_layers(model)
    for head in heads:
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)
    return {type(head).__name__ for head in heads}


def check_output_matrix(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Check that the output layer multiplies by the merged matrix.

    Raises:
        GenerationError: it does not.
    """
    matrix = _matrix(weights, OUTPUTS)
    if matrix is None:
        matrix = _matrix(weights, INPUTS)
    assert matrix is not None, "a language model has embeddings"
    for head in _vocabulary_layers(model)[0]:
        loaded, rows = head.weight, head.shard_indices
        start, stop = rows.org_vocab_start_index, rows.org_vocab_end_index
        # Two columns only: the whole matrix may not fit on a GPU that vLLM has filled.
        expected = matrix[start:stop, :2].to(loaded.device, loaded.dtype)
        states = torch.eye(2, loaded.shape[1], device=loaded.device, dtype=loaded.dtype)
        logits = head.quant_method.apply(head, states)[:, : stop - start]
        if not torch.equal(logits, expected.T):
            raise GenerationError(
                "vLLM's output matrix differs from that of the merged model; set "
                "generation.one_engine to false"
            )


def _vocabulary_layers(model: torch.nn.Module) -> tuple[list[Any], list[Any]]:
    """Return the output layers and the embedding layers, which have a row per token."""
    module = import_vllm("vllm.model_executor.layers.vocab_parallel_embedding")
    layers = [
        layer for layer in model.modules() if isinstance(layer, module.VocabParallelEmbedding)
    ]
    heads = [layer for layer in layers if isinstance(layer, module.ParallelLMHead)]
    return heads, [layer for layer in layers if layer not in heads]


def _matrix(weights: Mapping[str, torch.Tensor], modules: tuple[str, ...]) -> torch.Tensor | None:
    ends = tuple(f".{module}.weight" for module in modules)
    return next((tensor for name, tensor in weights.items() if f".{name}".endswith(ends)), None)
