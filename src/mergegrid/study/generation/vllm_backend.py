"""Answers by vLLM, in this process: it takes all requests at once and batches them itself.

Draws of vLLM are its own: they depend on the sampling seed and the prompt, not on other requests,
and differ from those of transformers. Greedy answers agree in float32.

Variants of a family are merged in this process. An engine that is split over several processes
gets them as one file in memory, which all of them map.
"""

import gc
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.budget import processors
from mergegrid.errors import ConfigError
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.generation.backend import (
    Completion,
    Engine,
    GenerationError,
    Request,
    import_vllm,
    model_config,
)
from mergegrid.study.generation.merged import Merger
from mergegrid.study.generation.tokens import Prompts
from mergegrid.study.generation.transformers_backend import empty_model, put
from mergegrid.study.generation.vllm_compile_compat import share_compiled_models
from mergegrid.study.schema.generation import Generation

logger = logging.getLogger(__name__)

_WORKER = "mergegrid.study.generation.vllm_weights.MergeWorker"
# vLLM looks through all modules for its kernels, and fails at the library of this one, which has
# every attribute that is asked for. Who needs it has imported it.
_UNREADABLE = "llvmlite.binding.ffi"
_CACHE = 1 << 30
# Mean difference of log-probabilities that arithmetic explains; a tensor that was not replaced
# is noise.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.25, "float16": 0.1}
_PROBE = 48
_SHARED_MEMORY = Path("/dev/shm")
# How vLLM says that a GPU is too small, or not free enough.
_TOO_SMALL = ("Free memory on device", "KV cache", "cache blocks", "memory profiling")


class VllmBackend:
    """A model in vLLM.

    Args:
        engine: its identity.
        settings: share of a GPU's memory to take.
        model: folder of the model.
        longest: tokens of the longest question with its answer; by default what the model allows.
        merger: the family whose variants are loaded; the folder is then asked only for its config.

    Raises:
        ConfigError: the memory of the GPU does not hold the model and its cache.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Generation,
        model: Path,
        longest: int | None = None,
        merger: Merger | None = None,
    ) -> None:
        self.engine = engine
        self.prompts = Prompts(model)
        self._merger, self._model = merger, model
        self._numbers = count()
        self._checked = False
        split = int(engine["tensor_parallel"])
        if split == 1:
            # A process for the engine costs its start.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        else:
            # Forked workers hold the lease of this job as long as they live.
            os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork")
        self._in_process = split == 1 and os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        self._vllm: Any = import_vllm("vllm")
        share_compiled_models()
        length = longest or self.prompts.longest(settings.max_model_len)
        on_cpu = engine["device"] == "cpu"
        with _unseen(_UNREADABLE), _memory_explained():
            self._llm: Any = self._vllm.LLM(
                model=str(model),
                dtype=str(engine["dtype"]),
                tensor_parallel_size=split,
                max_model_len=length if merger is None else max(length, _PROBE + 1),
                # Compiling takes longer than it saves there.
                enforce_eager=on_cpu,
                gpu_memory_utilization=settings.memory_fraction,
                kv_cache_memory_bytes=self._cache(length) if on_cpu else None,
                load_format="auto" if merger is None else "dummy",
                worker_extension_cls="" if merger is None else _WORKER,
            )

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        """Index of each request and its answers, each as soon as it is finished."""
        numbers = {next(self._numbers): index for index in range(len(requests))}
        self._llm.enqueue(
            [{"prompt_token_ids": list(request.ids)} for request in requests],
            [self._parameters(request) for request in requests],
            use_tqdm=False,
        )
        while self._llm.llm_engine.has_unfinished_requests():
            for output in self._llm.llm_engine.step():
                if output.finished:
                    index = numbers[int(output.request_id)]
                    request = requests[index]
                    answers = sorted(output.outputs, key=lambda each: int(each.index))
                    yield (
                        index,
                        [
                            self.prompts.completion(request.ids, each.token_ids, request.sampling)
                            for each in answers
                        ],
                    )

    def load(self, variant: str) -> None:
        """Replace the model by what a recipe, as JSON, makes of the experts.

        Raises:
            GenerationError: the engine does not hold what was merged.
        """
        assert self._merger is not None, "the engine was opened for one model"
        weights = self._merger.weights(Recipe.model_validate_json(variant))
        probe = [] if self._checked else self._probe()
        wanted = self._expected(weights, probe) if probe else []
        with self._handed(weights) as given:
            try:
                self._llm.collective_rpc("load_variant", args=(given,))
            except (GenerationError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                # What workers in processes of their own say comes as a bare exception.
                raise GenerationError(f"vLLM did not take the merged model: {error}") from error
        if not self._llm.reset_prefix_cache():
            raise GenerationError("vLLM keeps what it knows of the variant before; start it anew")
        if probe:
            self._check(probe, wanted)
            self._checked = True

    def close(self) -> None:
        """Give the memory of the engine back."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()

    def _parameters(self, request: Request) -> Any:
        sampling = request.sampling
        return self._vllm.SamplingParams(
            n=sampling.samples,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=int(digest([sampling.seed, list(request.ids)])[:7], 16),
            stop_token_ids=sorted(self.prompts.ends),
            # It ends there; `Prompts.completion` cuts, for every engine in the same way.
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            detokenize=bool(sampling.stop),
        )

    @contextmanager
    def _handed(self, weights: dict[str, torch.Tensor]) -> Iterator[Any]:
        """The tensors as workers get them: themselves, or the path of a file that holds them."""
        if self._in_process:
            yield weights
            return
        size = sum(tensor.nbytes for tensor in weights.values())
        with TemporaryDirectory(prefix="mergegrid-", dir=_roomy(size)) as folder:
            path = Path(folder) / "model.safetensors"
            save_file(weights, path)
            weights.clear()
            yield str(path)

    def _expected(self, weights: Mapping[str, torch.Tensor], probe: list[int]) -> list[float]:
        """Log-probability of each token of the probe but the first, by transformers on the CPU."""
        threads = torch.get_num_threads()
        torch.set_num_threads(processors())
        try:
            with torch.inference_mode(), torch.device("cpu"):
                model = empty_model(self._model, str(self.engine["dtype"]))
                put(model, weights)
                ids = torch.tensor([probe])
                shares = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
                found: list[float] = shares.gather(-1, ids[0, 1:, None])[:, 0].tolist()
                return found
        finally:
            torch.set_num_threads(threads)

    def _probe(self) -> list[int]:
        """Tokens spread over the vocabulary: every matrix counts in what follows them."""
        size = int(model_config(self._model)["vocab_size"])
        return [(7919 * (place + 1)) % size for place in range(_PROBE)]

    def _check(self, probe: list[int], wanted: list[float]) -> None:
        next(self._numbers)
        (output,) = self._llm.generate(
            {"prompt_token_ids": probe},
            self._vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0),
            use_tqdm=False,
        )
        found = [
            each[token].logprob
            for token, each in zip(probe[1:], output.prompt_logprobs[1:], strict=True)
        ]
        differences = [abs(ours - theirs) for ours, theirs in zip(found, wanted, strict=True)]
        mean = sum(differences) / len(differences)
        logger.info("vLLM and transformers differ by %.2g in log-probabilities", mean)
        if not mean <= _TOLERANCE[str(self.engine["dtype"])]:
            raise GenerationError(
                "vLLM does not hold the merged weights: its "
                f"log-probabilities are {mean:.2g} off on average; set generation.one_engine to "
                "false"
            )

    def _cache(self, length: int) -> int:
        """Bytes for keys and values, at least for two questions of the longest kind."""
        config = model_config(self._model)
        heads = int(config.get("num_attention_heads", 1))
        size = int(config.get("head_dim") or config.get("hidden_size", 0) // heads)
        kept = int(config.get("num_key_value_heads") or heads)
        layers = int(config.get("num_hidden_layers", 1))
        token = 2 * layers * kept * size * DTYPES[str(self.engine["dtype"])].size
        return max(_CACHE, 2 * token * (length + 128))


def _roomy(size: int) -> Path | None:
    """A folder in memory with room for so many bytes; None for the usual one, on a disk."""
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return None
    return _SHARED_MEMORY if free > 1.05 * size else None


@contextmanager
def _memory_explained() -> Iterator[None]:
    """Say which keys help where the memory of a GPU does not suffice."""
    try:
        yield
    except (ValueError, RuntimeError, AssertionError) as error:
        if not any(sign in str(error) for sign in _TOO_SMALL):
            raise
        (said, *_) = str(error).splitlines()
        raise ConfigError(
            f"vLLM: {said}; free the GPU or lower generation.memory_fraction if others use it, "
            "lower generation.max_model_len, or raise generation.gpus"
        ) from error


@contextmanager
def _unseen(name: str) -> Iterator[None]:
    """Keep a module out of the list of modules; who has imported it still has it."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module
