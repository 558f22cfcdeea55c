"""Fine-tuning an encoder for one task with the transformers Trainer.

The defaults are the paper's recipe (arXiv 2311.03099, appendix A): AdamW, linear schedule with
warm-up, best epoch on validation. The seed governs the new head, the order of the examples and
dropout. An interrupted run goes on after its last finished epoch and ends with the same weights:
on the CPU, and on one model of GPU (see `cuda`).
"""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from mergegrid.checkpoints.publish import published_digest
from mergegrid.stages import library_versions, stage_versions
from mergegrid.study.encoders.importing import load_classifier, save_expert
from mergegrid.study.finetuning.cuda import prepare_device
from mergegrid.study.finetuning.heads import head_config
from mergegrid.study.finetuning.state import Seal, last_checkpoint, state_folder
from mergegrid.study.schema.encoder_jobs import FinetuneRequest, Target
from mergegrid.study.schema.families import Finetune
from mergegrid.study.tasks.encoding import encode
from mergegrid.study.tasks.examples import examples_digest
from mergegrid.study.tasks.metrics import predictions_of, score

STAGE_VERSIONS = {"finetune_encoder": 1}

logger = logging.getLogger(__name__)


def finetune(
    base: Path,
    request: FinetuneRequest,
    examples: pd.DataFrame,
    folder: Path,
    device: str = "cpu",
) -> None:
    """Fine-tune a base for a task and publish the expert at `folder`.

    Beside the model, `folder` gets `training.json`: settings, seed and the validation curve. State
    for resuming lives in `<folder>.state` until the expert is published; it is used only by a run
    with the same inputs, device and stage version.
    """
    target, settings = request.target, request.settings
    assert settings is not None, "a ready expert is imported, not fine-tuned"
    made_from = {
        "base": published_digest(base),
        "examples": examples_digest(examples),
        "request": request.model_dump(mode="json"),
        "device": device,
        "versions": stage_versions("finetune_encoder"),
    }
    state = state_folder(folder, made_from)
    set_seed(request.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load_classifier(base, **head_config(target))
    splits = {
        name: _Encoded(tokenizer, examples[examples["split"] == name], target.max_length)
        for name in ("train", "validation")
    }
    prepare_device(device)
    trainer = Trainer(
        model=model,
        args=_arguments(settings, request.seed, state, device),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_Metric(target),
        callbacks=[_Progress(), Seal()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(state))
    curve = [
        {"epoch": entry["epoch"], "validation": entry["eval_score"], "loss": entry["eval_loss"]}
        for entry in trainer.state.log_history
        if "eval_score" in entry
    ]
    made_from["libraries"] = library_versions("finetune_encoder")
    save_expert(model.cpu(), tokenizer, folder, request, made_from, curve)
    shutil.rmtree(state)


class _Encoded(Dataset[dict[str, Any]]):
    """Encoded examples with their labels."""

    def __init__(self, tokenizer: Any, examples: pd.DataFrame, max_length: int) -> None:
        self._encoded = encode(tokenizer, examples, max_length)
        self._labels = examples["label"].tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**self._encoded[row], "label": self._labels[row]}


class _Metric:
    """The task's metric on the validation split."""

    def __init__(self, target: Target) -> None:
        self._metric = target.metric

    def __call__(self, result: EvalPrediction) -> dict[str, float]:
        labels = np.asarray(result.label_ids)
        predictions = predictions_of(np.asarray(result.predictions), self._metric)
        return {"score": score(self._metric, labels, predictions)}


class _Progress(TrainerCallback):
    """One line per epoch in the log."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if metrics:
            logger.info(
                "epoch %d of %d: validation %.4f",
                round(state.epoch or 0),
                round(args.num_train_epochs),
                metrics["eval_score"],
            )


def _arguments(settings: Finetune, seed: int, state: Path, device: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(state),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=64,
        # A float below 1 is a share of the steps.
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,  # The last epoch; the best one is kept besides.
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
    )
