"""Multi-task fine-tuning of an encoder: one body and a head per task, trained together.

A step takes a batch of every task and descends on the sum of their mean losses, cross-entropy or
squared error (arXiv 2311.03099, figure 5). An epoch is one pass over the longest task; shorter ones
repeat, reshuffled on every pass. The rest is the same as for single experts: AdamW, linear schedule
with warm-up, and the first epoch with the highest mean over the tasks on validation.

Heads have the architecture that the expert of their task has, so that an oracle differs from the
experts in its training alone. The paper puts linear heads on `pooler_output`: the same for BERT,
whose pooler is shared here too, but another architecture than the experts for RoBERTa, whose heads
have a layer of their own instead.

The seed determines the heads, the order of the examples and dropout. Every epoch restarts the
random number generators, so an interrupted training resumes after its last finished epoch and ends
with the same weights: on the CPU, and on one model of GPU (see `cuda`).
"""

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

from mergegrid.checkpoints.publish import publish
from mergegrid.fsync import sync_tree
from mergegrid.hashing import digest
from mergegrid.progress import progress
from mergegrid.stages import library_versions
from mergegrid.study.encoders.importing import load_with_head, save_expert, write_training
from mergegrid.study.finetuning.adamr import AdamR, adamr_settings
from mergegrid.study.finetuning.cuda import prepare_device
from mergegrid.study.finetuning.resuming import state_folder
from mergegrid.study.finetuning.training import training_inputs
from mergegrid.study.schema.encoder_jobs import OracleRequest
from mergegrid.study.schema.finetuning import Finetune
from mergegrid.study.schema.tasks import Target
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

    `folder` holds a complete classifier per expert, in a published folder of its name; all of them
    have the same body. `training.json` beside them holds the request and the validation curve.
    State for resuming lives in `<folder>.state` until the oracle is published; it is used only by a
    run with the same inputs, device and stage version.

    Args:
        base: published folder of the pre-trained model.
        request: tasks, settings and seed.
        examples: prepared examples of each task, in the order of `request.experts`.
        folder: where the oracle is published.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: training diverged.
    """
    digests = [examples_digest(table) for table in examples]
    made_from = training_inputs("finetune_multitask", base, digests, request, device)
    state = state_folder(folder, made_from)
    set_seed(request.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    models = _models(base, request.targets)
    tasks = {
        name: _Task(model, tokenizer, target, table, device)
        for name, model, target, table in zip(
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
            expert_curve = [
                {"epoch": entry["epoch"], "validation": entry["tasks"][name]} for entry in curve
            ]
            part, of_expert = {**made_from, "expert": name}, request.of_expert(name)
            save_expert(model, tokenizer, draft / name, of_expert, part, expert_curve)
        write_training(draft.path, request, curve)
    shutil.rmtree(state)


class _Task:
    """The examples of a task and the model that learns them."""

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
        self._validation_labels = validation["label"].to_numpy()

    def steps(self, batch_size: int) -> int:
        """Number of batches in one pass over the training examples."""
        return math.ceil(len(self._encoded) / batch_size)

    def batches(self, batch_size: int, seed: list[int]) -> Iterator[list[int]]:
        """Endless batches of rows; every pass has a new order."""
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
        """Metric of the task on its validation split."""
        labels = self._validation_labels
        logits = np.empty((len(labels), self._model.num_labels), dtype=np.float32)
        with torch.inference_mode():
            for batch in self._validation:
                logits[batch.rows] = self._model(**batch.inputs).logits.float().cpu().numpy()
        metric = self._target.metric
        return score(metric, labels, predictions_of(logits, metric))


def _models(base: Path, targets: Sequence[Target]) -> list[PreTrainedModel]:
    """A classifier per task; all share the body of the first."""
    models: list[PreTrainedModel] = []
    for target in targets:
        model = load_with_head(base, target)
        if models:
            setattr(model, model.base_model_prefix, models[0].base_model)
        models.append(model)
    return models


def _train(
    models: nn.ModuleList, tasks: Mapping[str, _Task], settings: Finetune, seed: int, state: Path
) -> Curve:
    """Train to the last epoch, resuming from `state`; load the best epoch, return the curve."""
    steps = max(task.steps(settings.batch_size) for task in tasks.values())
    total = settings.epochs * steps
    optimizer = _optimizer(models, settings)
    schedule = get_linear_schedule_with_warmup(  # type: ignore[no-untyped-call]
        optimizer, math.ceil(total * settings.warmup_ratio), total
    )
    curve, best = _resume(state / STATE, models, optimizer, schedule)
    for epoch in range(len(curve) + 1, settings.epochs + 1):
        # Dropout of an epoch must not depend on whether the training was interrupted before it.
        torch.manual_seed(int(digest([seed, epoch])[:15], 16))
        models.train()
        orders = [
            task.batches(settings.batch_size, [seed, epoch, index])
            for index, task in enumerate(tasks.values())
        ]
        for _ in progress(range(steps), f"epoch {epoch} of {settings.epochs}", steps):
            # Task by task, to save memory: gradients add up to the gradient of the sum.
            for task, order in zip(tasks.values(), orders, strict=True):
                task.loss(next(order)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(models.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        models.eval()
        scores = {name: task.validate() for name, task in tasks.items()}
        mean = float(np.mean(list(scores.values())))
        if mean > max((entry["validation"] for entry in curve), default=-math.inf):
            best = _copied(models.state_dict())
        curve.append({"epoch": epoch, "validation": mean, "tasks": scores})
        _log_epoch(curve[-1], settings.epochs)
        _save(state / STATE, models, optimizer, schedule, curve, best)
    models.load_state_dict(best)
    return curve


def _copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors to the CPU; the shared body is copied once."""
    copies: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.cpu().clone()
    return {name: copies[tensor.data_ptr()] for name, tensor in state.items()}


def _optimizer(models: nn.ModuleList, settings: Finetune) -> torch.optim.AdamW:
    """AdamW without weight decay of biases and layer norms, the parameters of one dimension."""
    matrices = [parameter for parameter in models.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in models.parameters() if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if settings.towards_base:
        first: Any = models[0]
        return AdamR(groups, **adamr_settings(settings, first.base_model.parameters()))
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _save(
    path: Path, models: nn.Module, optimizer: Any, schedule: Any, curve: Curve, best: Any
) -> None:
    """Write the state of the training atomically."""
    part = path.with_suffix(".part")
    state = {
        "models": models.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "curve": curve,
        "best": best,
    }
    torch.save(state, part)
    sync_tree(part)
    part.replace(path)


def _resume(path: Path, models: nn.Module, optimizer: Any, schedule: Any) -> tuple[Curve, Any]:
    """Restore the state of the training, and return the curve so far and the best weights."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return [], {}
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        logger.warning("%s cannot be read, so training restarts: %s", path, error)
        return [], {}
    models.load_state_dict(state["models"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    logger.info("resuming after epoch %d", len(state["curve"]))
    return state["curve"], state["best"]


def _log_epoch(entry: Mapping[str, Any], epochs: int) -> None:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in entry["tasks"].items())
    logger.info(
        "epoch %d of %d: validation %.4f (%s)", entry["epoch"], epochs, entry["validation"], scores
    )
