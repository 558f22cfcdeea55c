"""Answers by vLLM, in this process: it takes all requests at once and batches them itself.

Draws of vLLM are its own: they depend on the sampling seed and the prompt, not on other requests,
and differ from those of transformers. Greedy answers agree in float32.
"""

import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.config.generation import Generation
from mergegrid.generation.backend import (
    Completion,
    Engine,
    GenerationError,
    Request,
    import_vllm,
    model_config,
)
from mergegrid.generation.merged import Models
from mergegrid.generation.tokens import Prompts
from mergegrid.provenance import digest

logger = logging.getLogger(__name__)

_WORKER = "mergegrid.generation.vllm_weights.MergeWorker"
# vLLM looks through all modules for its kernels, and fails at the library of this one, which has
# every attribute that is asked for. Who needs it has imported it.
_UNREADABLE = "llvmlite.binding.ffi"
_CACHE = 1 << 30
# Mean difference of log-probabilities that arithmetic explains; a tensor that was not replaced
# is noise.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.1}
_PROBE = 48


class VllmBackend:
    """A model in vLLM.

    Args:
        engine: its identity.
        settings: share of a GPU's memory to take.
        model: folder of the model.
        longest: tokens of the longest question with its answer; by default what the model allows.
        models: the family whose variants are loaded; the folder is then asked only for its config.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Generation,
        model: Path,
        longest: int | None = None,
        models: Models | None = None,
    ) -> None:
        self.engine = engine
        self.prompts = Prompts(model)
        self._models, self._model = models, model
        self._numbers = count()
        self._checked = False
        if engine["tensor_parallel"] == 1:
            # A process for the engine costs its start, and would run the calling script again.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        self._vllm: Any = import_vllm("vllm")
        length = longest or self.prompts.longest(settings.max_model_len)
        on_cpu = engine["device"] == "cpu"
        with _unseen(_UNREADABLE):
            self._llm: Any = self._vllm.LLM(
                model=str(model),
                dtype=str(engine["dtype"]),
                tensor_parallel_size=int(engine["tensor_parallel"]),
                max_model_len=length if models is None else max(length, _PROBE + 1),
                # Compiling takes longer than it saves there.
                enforce_eager=on_cpu,
                gpu_memory_utilization=settings.memory_fraction,
                kv_cache_memory_bytes=self._cache(length) if on_cpu else None,
                load_format="auto" if models is None else "dummy",
                worker_extension_cls="" if models is None else _WORKER,
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
        assert self._models is not None, "the engine was opened for one model"
        probe = [] if self._checked else self._probe()
        (wanted, *_) = self._llm.collective_rpc(
            "load_variant",
            args=(self._models.model_dump_json(), variant, str(self._model), probe),
        )
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


@contextmanager
def _unseen(name: str) -> Iterator[None]:
    """Keep a module out of the list of modules; who has imported it still has it."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module
