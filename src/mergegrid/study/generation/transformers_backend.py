"""Answers by transformers: batches of prompts of like lengths, padded on the left.

Draws are counted, not shared: step `t` of sample `s` of a request takes the `t`-th number of a
generator that is seeded by the sampling seed, the prompt and `s`. So a draw depends neither on the
batch nor on the order of requests; what it is compared with are probabilities, and those are
independent of the batch up to rounding in float32, and visibly not in half precision.
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
from transformers.initialization import no_init_weights

from mergegrid.checkpoints.torch_tensors import load_into
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.generation.backend import Completion, Engine, GenerationError, Request
from mergegrid.study.generation.tokens import Prompts, has_stop
from mergegrid.study.schema.generation import Generation, Sampling

# Tokens that are looked through for a stop text besides as many as it has bytes.
_MARGIN = 8


@dataclass(frozen=True)
class Row:
    """One answer to be written: a sample of a request."""

    index: int
    """Of the request."""
    sample: int
    request: Request


class TransformersBackend:
    """A model of transformers.

    Args:
        engine: its identity.
        settings: dtype and batch size.
        model: folder of the model.
        device: `cpu` or `cuda`.
    """

    def __init__(self, engine: Engine, settings: Generation, model: Path, device: str) -> None:
        self.engine = engine
        self.prompts = Prompts(model)
        self._batch_size = settings.batch_size
        self.model = self._loaded(model, str(engine["dtype"])).to(device).eval()
        # The model's own may hold a temperature or a penalty on repetition.
        self.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        own = self.prompts.tokenizer
        known = (own.pad_token_id, own.eos_token_id, own.unk_token_id, 0)
        self._pad = next(token for token in known if token is not None)

    def _loaded(self, model: Path, dtype: str) -> Any:
        found: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), output_loading_info=True
        )
        loaded, report = found
        missing = sorted(report["missing_keys"])
        if missing:
            raise GenerationError(
                f"{model} lacks {len(missing)} tensors of {type(loaded).__name__}, first "
                f"{missing[0]}, which would be random; download or merge the whole model again"
            )
        return loaded

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        """Index of each request and its answers, batch by batch."""
        groups: dict[Sampling, list[Row]] = defaultdict(list)
        for index, request in enumerate(requests):
            for sample in range(request.sampling.samples):
                groups[request.sampling].append(Row(index, sample, request))
        done: dict[int, list[Completion]] = defaultdict(list)
        for sampling, rows in groups.items():
            rows.sort(key=lambda row: len(row.request.ids), reverse=True)
            for batch in _batches(rows, self._batch_size):
                for row, ids in zip(batch, self._write(batch, sampling), strict=True):
                    found = self.prompts.completion(row.request.ids, ids, sampling)
                    done[row.index].append(found)
                    if len(done[row.index]) == sampling.samples:
                        yield row.index, done.pop(row.index)

    def close(self) -> None:
        """Forget the model."""
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _write(self, rows: Sequence[Row], sampling: Sampling) -> list[list[int]]:
        """Tokens that the model writes behind each prompt."""
        width = max(len(row.request.ids) for row in rows)
        ids = torch.full((len(rows), width), self._pad)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, width - len(row.request.ids) :] = torch.tensor(row.request.ids)
            mask[at, width - len(row.request.ids) :] = 1
        device = self.model.device
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            eos_token_id=sorted(self.prompts.ends) or None,
            pad_token_id=self._pad,
        )
        written = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=LogitsProcessorList(
                [_Draw(rows, sampling)] if sampling.temperature else []
            ),
            stopping_criteria=StoppingCriteriaList(
                [_Stop(self.prompts, rows, sampling.stop)] if sampling.stop else []
            ),
        )
        answers: list[list[int]] = written[:, width:].tolist()
        return answers


class VariantBackend(TransformersBackend):
    """A model of transformers whose weights are replaced by those of variants.

    Args:
        engine: its identity.
        settings: dtype and batch size.
        shell: folder with config and tokenizer of the variants.
        device: `cpu` or `cuda`.
        merge: gives the tensors of a recipe.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Generation,
        shell: Path,
        device: str,
        merge: Callable[[Recipe], Mapping[str, torch.Tensor]],
    ) -> None:
        super().__init__(engine, settings, shell, device)
        self._merge = merge

    def load(self, variant: str) -> None:
        """Replace the model by what a recipe, as JSON, makes of the experts.

        Raises:
            GenerationError: the model would keep a tensor of the one before.
        """
        put(self.model, self._merge(Recipe.model_validate_json(variant)))

    def _loaded(self, model: Path, dtype: str) -> Any:
        return empty_model(model, dtype)


def empty_model(shell: Path, dtype: str) -> Any:
    """A model as its config describes it, with weights that mean nothing."""
    config = AutoConfig.from_pretrained(shell)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, dtype)
        )
    model.tie_weights()
    return model.eval()


def put(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Replace all weights of a model; names may lack the prefix of its body, as when it loads.

    Raises:
        CheckpointError: the model lacks one of them.
        GenerationError: the model would keep one of its own.
    """
    state = model.state_dict()
    body = f"{model.base_model_prefix}."
    weights = {
        body + name if name not in state and body + name in state else name: tensor
        for name, tensor in weights.items()
    }
    given = {state[name].data_ptr() for name in weights if name in state}
    kept = [name for name, own in model.named_parameters() if own.data_ptr() not in given]
    if kept:
        raise GenerationError(
            f"the merge has no {kept[0]} ({len(kept)} parameters of the model are not merged); "
            "merge to a folder instead: set generation.one_engine to false"
        )
    load_into(model, weights)


class _Stop(StoppingCriteria):
    """Ends each row whose last tokens hold a stop text."""

    def __init__(self, prompts: Prompts, rows: Sequence[Row], stops: Sequence[str]) -> None:
        self._prompts, self._stops = prompts, stops
        self._rows = [row.request.ids for row in rows]
        self._window = max(len(stop.encode()) for stop in stops) + _MARGIN
        self._width = max(len(ids) for ids in self._rows)

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any
    ) -> torch.BoolTensor:
        written = input_ids[:, self._width :].tolist()
        ended = [self._ended(prompt, ids) for prompt, ids in zip(self._rows, written, strict=True)]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]

    def _ended(self, prompt: tuple[int, ...], ids: list[int]) -> bool:
        before, last = ids[: -self._window], ids[-self._window :]
        return has_stop(self._prompts.text((*prompt, *before), last), self._stops)


class _Draw(LogitsProcessor):
    """Leaves each row the one token that is drawn for it."""

    def __init__(self, rows: Sequence[Row], sampling: Sampling) -> None:
        self._sampling = sampling
        self._numbers = [_generator(row) for row in rows]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        shares, tokens = (
            (scores.float() / self._sampling.temperature)
            .softmax(-1)
            .sort(dim=-1, descending=True, stable=True)
        )
        sums = shares.double().cumsum(-1)
        # A token is among the first `top_p` if those before it do not reach that share.
        kept = sums - shares < self._sampling.top_p
        total = torch.where(kept, sums, 0).amax(-1, keepdim=True)
        drawn = torch.tensor([[each.random()] for each in self._numbers], dtype=torch.float64)
        place = torch.searchsorted(sums, drawn.to(sums.device) * total, right=True)
        place = place.clamp_max(kept.sum(-1, keepdim=True) - 1)
        only = torch.full_like(scores, -torch.inf)
        only.scatter_(-1, tokens.gather(-1, place), 0)
        return only  # type: ignore[return-value]


def _generator(row: Row) -> np.random.Generator:
    identity = [row.request.sampling.seed, list(row.request.ids), row.sample]
    return np.random.Generator(np.random.Philox(key=int(digest(identity)[:32], 16)))


def _batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
