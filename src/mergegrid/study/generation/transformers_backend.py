"""Generation with transformers: batches of prompts of similar length, padded on the left.

Draws are counter-based: step `t` of sample `s` of a request uses the `t`-th number of a generator
seeded by the sampling seed, the prompt and `s`. So a draw depends neither on the batch nor on the
order of requests. The probabilities that it is compared with are independent of the batch up to
rounding in float32, but visibly depend on it in half precision.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from mergegrid.checkpoints.torch_tensors import load_into
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.generation.backend import (
    Completion,
    EngineIdentity,
    GenerationError,
    GenerationRequest,
)
from mergegrid.study.generation.tokens import PromptTokenizer, has_stop
from mergegrid.study.runtime.transformers_compat import no_init_weights
from mergegrid.study.schema.generation import Generation, Sampling

# A stop text is searched for in the last tokens, as many as it has bytes and these.
_MARGIN = 8


@dataclass(frozen=True)
class Row:
    """A row of a batch: one sample of a request."""

    index: int
    """Index of the request."""
    sample: int
    request: GenerationRequest


class TransformersBackend:
    """A model in transformers.

    Args:
        engine: identity of the engine.
        settings: dtype and batch size.
        model: folder of the model.
        device: `cpu` or `cuda`.
    """

    def __init__(
        self, engine: EngineIdentity, settings: Generation, model: Path, device: str
    ) -> None:
        self.engine = engine
        self.prompts = PromptTokenizer(model)
        self._batch_size = settings.batch_size
        self.model = self._load_model(model, str(engine["dtype"])).to(device).eval()
        # The model's default may hold a temperature or a repetition penalty.
        self.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        tokenizer = self.prompts.tokenizer
        candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
        self._pad = next(token for token in candidates if token is not None)

    def _load_model(self, model: Path, dtype: str) -> Any:
        result: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), output_loading_info=True
        )
        loaded, report = result
        missing = sorted(report["missing_keys"])
        if missing:
            raise GenerationError(
                f"{model} lacks {len(missing)} tensors of {type(loaded).__name__} (the first is "
                f"{missing[0]}), which would be random; download or merge the whole model again"
            )
        return loaded

    def generate(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield the index of each request with its completions, batch by batch."""
        groups: dict[Sampling, list[Row]] = defaultdict(list)
        for index, request in enumerate(requests):
            for sample in range(request.sampling.samples):
                groups[request.sampling].append(Row(index, sample, request))
        finished: dict[int, list[Completion]] = defaultdict(list)
        for sampling, rows in groups.items():
            rows.sort(key=lambda row: len(row.request.ids), reverse=True)
            for start in range(0, len(rows), self._batch_size):
                batch = rows[start : start + self._batch_size]
                for row, ids in zip(batch, self._generate_batch(batch, sampling), strict=True):
                    completion = self.prompts.completion(row.request.ids, ids, sampling)
                    finished[row.index].append(completion)
                    if len(finished[row.index]) == sampling.samples:
                        yield row.index, finished.pop(row.index)

    def close(self) -> None:
        """Free the model."""
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _generate_batch(self, rows: Sequence[Row], sampling: Sampling) -> list[list[int]]:
        """Return the tokens that the model generates after each prompt."""
        width = max(len(row.request.ids) for row in rows)
        ids = torch.full((len(rows), width), self._pad)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, width - len(row.request.ids) :] = torch.tensor(row.request.ids)
            mask[place, width - len(row.request.ids) :] = 1
        device = self.model.device
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            eos_token_id=sorted(self.prompts.end_tokens) or None,
            pad_token_id=self._pad,
        )
        generated = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=LogitsProcessorList(
                [_CountedDraws(rows, sampling)] if sampling.temperature else []
            ),
            stopping_criteria=StoppingCriteriaList(
                [_StopText(self.prompts, rows, sampling.stop)] if sampling.stop else []
            ),
        )
        answers: list[list[int]] = generated[:, width:].tolist()
        return answers


class VariantBackend(TransformersBackend):
    """A model in transformers whose weights are replaced by those of variants.

    Args:
        engine: identity of the engine.
        settings: dtype and batch size.
        shell: folder with config and tokenizer of the variants.
        device: `cpu` or `cuda`.
        merge: returns the tensors of a recipe.
    """

    def __init__(
        self,
        engine: EngineIdentity,
        settings: Generation,
        shell: Path,
        device: str,
        merge: Callable[[Recipe], Mapping[str, torch.Tensor]],
    ) -> None:
        super().__init__(engine, settings, shell, device)
        self._merge = merge

    def load(self, variant: str) -> None:
        """Replace the model by the merge of a recipe, given as JSON.

        Raises:
            GenerationError: the merge lacks a parameter of the model.
        """
        replace_weights(self.model, self._merge(Recipe.model_validate_json(variant)))

    def _load_model(self, model: Path, dtype: str) -> Any:
        return empty_model(model, dtype)


def empty_model(shell: Path, dtype: str) -> Any:
    """Build a model from its config, with uninitialized weights."""
    config = AutoConfig.from_pretrained(shell)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, dtype)
        )
    model.tie_weights()
    return model.eval()


def replace_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Replace all weights of a model; names may lack the prefix of its body, as in checkpoints.

    Raises:
        CheckpointError: the model lacks one of the tensors.
        GenerationError: the tensors lack a parameter of the model.
    """
    state = model.state_dict()
    body = f"{model.base_model_prefix}."
    weights = {
        body + name if name not in state and body + name in state else name: tensor
        for name, tensor in weights.items()
    }
    replaced = {state[name].data_ptr() for name in weights if name in state}
    kept = [name for name, tensor in model.named_parameters() if tensor.data_ptr() not in replaced]
    if kept:
        raise GenerationError(
            f"the merge has no {kept[0]} ({len(kept)} parameters of the model are not merged); "
            "set generation.one_engine to false to merge to a folder"
        )
    load_into(model, weights)


class _StopText(StoppingCriteria):
    """Ends each row whose last tokens contain a stop text."""

    def __init__(self, prompts: PromptTokenizer, rows: Sequence[Row], stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = prompts, stops
        self._prompts = [row.request.ids for row in rows]
        self._window = max(len(stop.encode()) for stop in stops) + _MARGIN
        self._width = max(len(ids) for ids in self._prompts)

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any
    ) -> torch.BoolTensor:
        rows = zip(self._prompts, input_ids[:, self._width :].tolist(), strict=True)
        ended = [self._has_ended(prompt, generated) for prompt, generated in rows]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]

    def _has_ended(self, prompt: tuple[int, ...], generated: list[int]) -> bool:
        before, last = generated[: -self._window], generated[-self._window :]
        return has_stop(self._tokenizer.text((*prompt, *before), last), self._stops)


class _CountedDraws(LogitsProcessor):
    """Draws the next token of each row, and masks all others."""

    def __init__(self, rows: Sequence[Row], sampling: Sampling) -> None:
        self._sampling = sampling
        self._generators = [_generator(row) for row in rows]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        probabilities, tokens = (
            (scores.float() / self._sampling.temperature)
            .softmax(-1)
            .sort(dim=-1, descending=True, stable=True)
        )
        sums = probabilities.double().cumsum(-1)
        # A token is in the nucleus if the more likely tokens sum to less than `top_p`, of what
        # `top_k` and `min_p` leave.
        allowed = self._allowed(probabilities)
        if allowed is None:
            kept = sums - probabilities < self._sampling.top_p
        else:
            left = torch.where(allowed, sums, 0).amax(-1, keepdim=True)
            kept = allowed & (sums - probabilities < self._sampling.top_p * left)
        total = torch.where(kept, sums, 0).amax(-1, keepdim=True)
        draws = [[generator.random()] for generator in self._generators]
        drawn = torch.tensor(draws, dtype=torch.float64)
        place = torch.searchsorted(sums, drawn.to(sums.device) * total, right=True)
        place = place.clamp_max(kept.sum(-1, keepdim=True) - 1)
        only = torch.full_like(scores, -torch.inf)
        only.scatter_(-1, tokens.gather(-1, place), 0)
        return only  # type: ignore[return-value]

    def _allowed(self, probabilities: torch.Tensor) -> torch.Tensor | None:
        """The tokens, the most likely first, that `top_k` and `min_p` leave; None: all."""
        top_k, min_p = self._sampling.top_k, self._sampling.min_p
        if top_k is None and not min_p:
            return None
        allowed = probabilities >= min_p * probabilities[..., :1]
        if top_k is not None:
            allowed[..., top_k:] = False
        return allowed


def _generator(row: Row) -> np.random.Generator:
    key = [row.request.sampling.seed, list(row.request.ids), row.sample]
    return np.random.Generator(np.random.Philox(key=int(digest(key)[:32], 16)))
