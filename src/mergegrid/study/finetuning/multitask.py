"""Multi-task fine-tuning of an encoder: one body and a head for each task, trained together.

A step takes a batch of every task and descends on the sum of their mean losses, cross-entropy or
squared error (arXiv 2311.03099, figure 5). An epoch is one pass over the longest task; a shorter
one starts over, newly shuffled, as often as it ends. All else is as for single experts: AdamW,
linear schedule with warm-up, the epoch with the best mean over the tasks on validation, the first
of equals.

Each head is the one that an expert of the task has, so an oracle differs from the experts in its
training alone. The paper's own has linear heads on `pooler_output`: the same for BERT, where the
pooler is shared here too, but another architecture than the experts for RoBERTa, whose heads have
a layer of their own in its place.

The seed governs the heads, the order of the examples and dropout. Every epoch starts its random
numbers anew, so an interrupted run goes on after its last finished epoch and ends with the same
weights: on the CPU, and on one model of GPU (see `cuda`).
"""

import json
import logging
import math
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, get_linear_schedule_with_warmup, set_seed

from mergegrid.checkpoints.publish import publish, published_digest
from mergegrid.fsync import sync_tree
from mergegrid.hashing import digest
from mergegrid.progress import progress
from mergegrid.stages import library_versions, stage_versions
from mergegrid.study.encoders.importing import TRAINING, load_classifier, save_expert
from mergegrid.study.finetuning.cuda import prepare_device
from mergegrid.study.finetuning.heads import head_config
from mergegrid.study.finetuning.state import state_folder
from mergegrid.study.schema.encoder_jobs import Target
from mergegrid.study.schema.families import Finetune
from mergegrid.study.schema.oracle_jobs import OracleRequest
from mergegrid.study.tasks.encoding import batches, encode
from mergegrid.study.tasks.examples import examples_digest
from mergegrid.study.tasks.metrics import predictions_of, score

STAGE_VERSIONS = {"finetune_multitask": 1}

logger = logging.getLogger(__name__)

STATE = "epoch.pt"
_VALIDATION_TOKENS = 8192
Curve = list[dict[str, Any]]


def finetune_together(
    base: Path,
    request: OracleRequest,
    examples: Sequence[pd.DataFrame],
    folder: Path,
    device: str = "cpu",
) -> None:
    """Fine-tune a base for several tasks at once and publish the oracle at `folder`.

    `folder` holds a complete classifier for each expert, in a folder of its name that is published
    like the expert's own; all have the same body. Beside them, `training.json` has the request and
    the validation curve. State for resuming lives in `<folder>.state` until then; it is used only
    by a run with the same inputs, device and stage version.

    Args:
        base: published folder of the pre-trained model.
        request: tasks, settings and seed.
        examples: prepared examples of each task, in the order of `request.experts`.
        folder: where the oracle is published.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: the training broke down.
    """
    made_from = {
        "base": published_digest(base),
        "examples": [examples_digest(each) for each in examples],
        "request": request.model_dump(mode="json"),
        "device": device,
        "versions": stage_versions("finetune_multitask"),
    }
    state = state_folder(folder, made_from)
    set_seed(request.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    models = _models(base, request.targets)
    tasks = {
        name: _Task(model, tokenizer, target, each, device)
        for name, model, target, each in zip(
            request.experts, models, request.targets, examples, strict=True
        )
    }
    prepare_device(device)
    together = nn.ModuleList(models).to(device)
    curve = _train(together, tasks, request.settings, request.seed, state)
    together.cpu()
    made_from["libraries"] = library_versions("finetune_multitask")
    with publish(folder, made_from) as draft:
        for name, model in zip(request.experts, models, strict=True):
            own = [{"epoch": entry["epoch"], "validation": entry["tasks"][name]} for entry in curve]
            part = {**made_from, "expert": name}
            save_expert(model, tokenizer, draft / name, request.of_expert(name), part, own)
        training = {**request.model_dump(mode="json"), "curve": curve}
        (draft / TRAINING).write_text(json.dumps(training, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(state)


class _Task:
    """One task's examples, and the model that learns them."""

    def __init__(
        self, model: Any, tokenizer: Any, target: Target, examples: pd.DataFrame, device: str
    ) -> None:
        self._model, self._tokenizer, self._target = model, tokenizer, target
        self._device = device
        train, validation = (
            examples[examples["split"] == split] for split in ("train", "validation")
        )
        self._encoded = encode(tokenizer, train, target.max_length)
        dtype = torch.float32 if target.is_regression else torch.int64
        self._labels = torch.tensor(train["label"].to_numpy(), dtype=dtype, device=device)
        encoded = encode(tokenizer, validation, target.max_length)
        self._validation = list(batches(tokenizer, encoded, _VALIDATION_TOKENS, device))
        self._answers = validation["label"].to_numpy()

    def steps(self, batch_size: int) -> int:
        """Batches of one pass over the training examples."""
        return math.ceil(len(self._encoded) / batch_size)

    def batches(self, batch_size: int, seed: list[int]) -> Iterator[list[int]]:
        """Batches without end: pass after pass, each in an order of its own."""
        generator = np.random.default_rng(seed)
        while True:
            order = generator.permutation(len(self._encoded)).tolist()
            for start in range(0, len(order), batch_size):
                yield order[start : start + batch_size]

    def loss(self, rows: list[int]) -> torch.Tensor:
        """Mean loss of a batch."""
        inputs = self._tokenizer.pad([self._encoded[row] for row in rows], return_tensors="pt")
        loss: torch.Tensor = self._model(**inputs.to(self._device), labels=self._labels[rows]).loss
        return loss

    def validate(self) -> float:
        """The task's metric on its validation split."""
        logits = np.empty((len(self._answers), self._model.num_labels), dtype=np.float32)
        with torch.inference_mode():
            for batch in self._validation:
                logits[batch.rows] = self._model(**batch.inputs).logits.float().cpu().numpy()
        metric = self._target.metric
        return score(metric, self._answers, predictions_of(logits, metric))


def _models(base: Path, targets: Sequence[Target]) -> list[PreTrainedModel]:
    """A classifier for each task; all are heads on the body of the first."""
    models: list[PreTrainedModel] = []
    for target in targets:
        model = load_classifier(base, **head_config(target))
        if models:
            setattr(model, model.base_model_prefix, models[0].base_model)
        models.append(model)
    return models


def _train(
    models: nn.Module, tasks: Mapping[str, _Task], settings: Finetune, seed: int, state: Path
) -> Curve:
    """Train to the end, from where the state stands, and load the best epoch; the curve."""
    steps = max(task.steps(settings.batch_size) for task in tasks.values())
    total = settings.epochs * steps
    optimizer = _optimizer(models, settings)
    schedule = get_linear_schedule_with_warmup(  # type: ignore[no-untyped-call]
        optimizer, math.ceil(total * settings.warmup_ratio), total
    )
    curve, best = _resume(state / STATE, models, optimizer, schedule)
    for epoch in range(len(curve) + 1, settings.epochs + 1):
        # Dropout of an epoch is the same whether or not the run began with it.
        torch.manual_seed(int(digest([seed, epoch])[:15], 16))
        models.train()
        orders = [
            task.batches(settings.batch_size, [seed, epoch, index])
            for index, task in enumerate(tasks.values())
        ]
        for _ in progress(range(steps), f"epoch {epoch} of {settings.epochs}", steps):
            # One task after the other: the sum of the gradients is the gradient of the sum.
            for task, order in zip(tasks.values(), orders, strict=True):
                task.loss(next(order)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(models.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        models.eval()
        scores = {name: task.validate() for name, task in tasks.items()}
        mean = float(np.mean(list(scores.values())))
        if mean > max((each["validation"] for each in curve), default=-math.inf):
            best = _copied(models.state_dict())
        curve.append({"epoch": epoch, "validation": mean, "tasks": scores})
        _say(curve[-1], settings.epochs)
        _save(state / STATE, models, optimizer, schedule, curve, best)
    models.load_state_dict(best)
    return curve


def _copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy in memory, in which the shared body is there once as well."""
    copies: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.cpu().clone()
    return {name: copies[tensor.data_ptr()] for name, tensor in state.items()}


def _optimizer(models: nn.Module, settings: Finetune) -> torch.optim.AdamW:
    """AdamW; biases and layer norms, the parameters of one dimension, do not decay."""
    parameters = list(models.parameters())
    return torch.optim.AdamW(
        [
            {
                "params": [each for each in parameters if each.ndim > 1],
                "weight_decay": settings.weight_decay,
            },
            {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )


def _save(
    path: Path, models: nn.Module, optimizer: Any, schedule: Any, curve: Curve, best: Any
) -> None:
    """Write where the training stands, all of it or nothing."""
    part = path.with_suffix(".part")
    parts = {"models": models, "optimizer": optimizer, "schedule": schedule}
    state = {name: each.state_dict() for name, each in parts.items()}
    torch.save({**state, "curve": curve, "best": best}, part)
    sync_tree(part)
    part.replace(path)


def _resume(path: Path, models: nn.Module, optimizer: Any, schedule: Any) -> tuple[Curve, Any]:
    """The curve so far and the best weights, with all else as it was; nothing at the start."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return [], {}
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        logger.warning("%s cannot be read, so training starts over: %s", path, error)
        return [], {}
    models.load_state_dict(state["models"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    logger.info("going on after epoch %d", len(state["curve"]))
    return state["curve"], state["best"]


def _say(entry: Mapping[str, Any], epochs: int) -> None:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in entry["tasks"].items())
    logger.info(
        "epoch %d of %d: validation %.4f (%s)", entry["epoch"], epochs, entry["validation"], scores
    )
