"""Generation with vLLM, in this process: it takes all requests at once and batches them itself.

vLLM draws tokens from the sampling seed and the prompt, independently of other requests; its draws
differ from those of transformers. Greedy answers agree in float32.

Variants of a family are merged in this process. An engine that is split over several processes
receives them as one file in memory, which all of them map.
"""

import gc
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.budget import processors
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.generation import vllm_compat
from mergegrid.study.generation.backend import (
    Completion,
    EngineIdentity,
    GenerationError,
    GenerationRequest,
    read_model_config,
)
from mergegrid.study.generation.merged import Merger
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.generation.transformers_backend import empty_model, replace_weights
from mergegrid.study.generation.vllm_environment import import_vllm
from mergegrid.study.schema.generation import Generation

logger = logging.getLogger(__name__)

_MIN_CACHE_BYTES = 1 << 30
# Mean difference of log-probabilities that rounding explains; a tensor that was not replaced is
# noise, and is off by far more.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.25, "float16": 0.1}
_PROBE_TOKENS = 48
_SHARED_MEMORY = Path("/dev/shm")


class VllmBackend:
    """A model in vLLM.

    Args:
        engine: identity of the engine.
        settings: share of the GPU memory to use, among others.
        model: folder of the model.
        longest: tokens of the longest prompt with its answer; by default the model's limit.
        merger: the family whose variants are loaded; the folder then needs only a config.

    Raises:
        ConfigError: the model and its KV cache do not fit into the memory of the GPU.
    """

    def __init__(
        self,
        engine: EngineIdentity,
        settings: Generation,
        model: Path,
        longest: int | None = None,
        merger: Merger | None = None,
    ) -> None:
        self.engine = engine
        self.prompts = PromptTokenizer(model)
        self._merger, self._model = merger, model
        self._verified = False
        split = int(engine["tensor_parallel"])
        if split == 1:
            # A separate process for the engine takes time to start.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        else:
            # Forked workers hold the GPU lease of this job as long as they live.
            os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork")
        self._in_process = split == 1 and os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        self._vllm: Any = import_vllm("vllm")
        vllm_compat.share_compiled_models()
        length = longest or self.prompts.max_length(settings.max_model_len)
        on_cpu = engine["device"] == "cpu"
        with vllm_compat.hidden_module(), vllm_compat.explained_memory_errors():
            self._llm: Any = self._vllm.LLM(
                model=str(model),
                dtype=str(engine["dtype"]),
                tensor_parallel_size=split,
                max_model_len=length if merger is None else max(length, _PROBE_TOKENS + 1),
                # On a CPU, compiling takes longer than it saves.
                enforce_eager=on_cpu,
                gpu_memory_utilization=settings.memory_fraction,
                kv_cache_memory_bytes=self._cache_bytes(length) if on_cpu else None,
                load_format="auto" if merger is None else "dummy",
                worker_extension_cls="" if merger is None else vllm_compat.WORKER,
            )

    def generate(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield the index of each request with its completions as soon as it is finished."""
        prompts = [request.ids for request in requests]
        parameters = [self._parameters(request) for request in requests]
        for index, output in vllm_compat.finished_outputs(self._llm, prompts, parameters):
            request = requests[index]
            samples = sorted(output.outputs, key=lambda sample: int(sample.index))
            yield (
                index,
                [
                    self.prompts.completion(request.ids, sample.token_ids, request.sampling)
                    for sample in samples
                ],
            )

    def load(self, variant: str) -> None:
        """Replace the model by the merge of a recipe, given as JSON.

        Raises:
            GenerationError: the engine does not hold the merged model.
        """
        assert self._merger is not None, "the engine was opened for one model"
        weights = self._merger.weights(Recipe.model_validate_json(variant))
        probe = [] if self._verified else self._probe()
        expected = self._expected(weights, probe) if probe else []
        with self._shared(weights) as source:
            vllm_compat.replace_model(self._llm, source)
        if probe:
            self._verify(probe, expected)
            self._verified = True

    def close(self) -> None:
        """Free the memory of the engine."""
        vllm_compat.shut_down(self._llm)
        del self._llm
        gc.collect()

    def _parameters(self, request: GenerationRequest) -> Any:
        sampling = request.sampling
        return self._vllm.SamplingParams(
            n=sampling.samples,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            min_p=sampling.min_p,
            seed=int(digest([sampling.seed, list(request.ids)])[:7], 16),
            stop_token_ids=sorted(self.prompts.end_tokens),
            # vLLM only ends there; `PromptTokenizer.completion` cuts, alike for every engine.
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            detokenize=bool(sampling.stop),
        )

    @contextmanager
    def _shared(self, weights: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor] | str]:
        """Yield the tensors as workers take them: themselves, or the path of a file with them."""
        if self._in_process:
            yield weights
            return
        size = sum(tensor.nbytes for tensor in weights.values())
        with TemporaryDirectory(prefix="mergegrid-", dir=_memory_folder(size)) as folder:
            path = Path(folder) / "model.safetensors"
            save_file(weights, path)
            weights.clear()
            yield str(path)

    def _expected(self, weights: Mapping[str, torch.Tensor], probe: list[int]) -> list[float]:
        """Log-probability of each probe token but the first, by transformers on the CPU."""
        threads = torch.get_num_threads()
        torch.set_num_threads(processors())
        try:
            with torch.inference_mode(), torch.device("cpu"):
                model = empty_model(self._model, str(self.engine["dtype"]))
                replace_weights(model, weights)
                ids = torch.tensor([probe])
                logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
                expected: list[float] = logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
                return expected
        finally:
            torch.set_num_threads(threads)

    def _probe(self) -> list[int]:
        """Tokens spread over the vocabulary, so that every matrix affects their probabilities."""
        size = int(read_model_config(self._model)["vocab_size"])
        return [(7919 * (place + 1)) % size for place in range(_PROBE_TOKENS)]

    def _verify(self, probe: list[int], expected: list[float]) -> None:
        """Compare vLLM's log-probabilities of the probe with the expected ones."""
        (output,) = self._llm.generate(
            {"prompt_token_ids": probe},
            self._vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0),
            use_tqdm=False,
        )
        pairs = zip(probe[1:], output.prompt_logprobs[1:], expected, strict=True)
        differences = [abs(logprobs[token].logprob - value) for token, logprobs, value in pairs]
        mean = sum(differences) / len(differences)
        logger.info("log-probabilities of vLLM and transformers differ by %.2g on average", mean)
        if not mean <= _TOLERANCE[str(self.engine["dtype"])]:
            raise GenerationError(
                "vLLM does not hold the merged weights: its log-probabilities are off by "
                f"{mean:.2g} on average; set generation.one_engine to false"
            )

    def _cache_bytes(self, length: int) -> int:
        """Size of the KV cache on a CPU: at least two requests of the maximal length."""
        config = read_model_config(self._model)
        heads = int(config.get("num_attention_heads", 1))
        head_size = int(config.get("head_dim") or config.get("hidden_size", 0) // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        layers = int(config.get("num_hidden_layers", 1))
        dtype = DTYPES[str(self.engine["dtype"])]
        token_bytes = 2 * layers * kv_heads * head_size * dtype.size
        return max(_MIN_CACHE_BYTES, 2 * token_bytes * (length + 128))


def _memory_folder(size: int) -> Path | None:
    """Return a folder in memory with room for so many bytes; None for the default, on disk."""
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return None
    return _SHARED_MEMORY if free > 1.05 * size else None
