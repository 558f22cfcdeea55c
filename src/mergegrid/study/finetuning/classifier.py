"""Fine-tune an encoder for one task with the transformers Trainer.

The defaults are the paper's recipe (arXiv 2311.03099, appendix A): AdamW, linear schedule with
warm-up, best epoch on validation. The seed determines the new head, the order of the examples and
dropout. An interrupted training resumes after its last finished epoch and ends with the same
weights: on the CPU, and on one model of GPU (see `cuda`).
"""

import shutil
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
    TrainingArguments,
    set_seed,
)

from mergegrid.stages import library_versions
from mergegrid.study.encoders.importing import load_with_head, save_expert
from mergegrid.study.finetuning.adamr import trainer_optimizer
from mergegrid.study.finetuning.cuda import prepare_device
from mergegrid.study.finetuning.resuming import CheckpointDigests, state_folder
from mergegrid.study.finetuning.training import EpochLog, common_arguments, train, training_inputs
from mergegrid.study.schema.encoder_jobs import FinetuneRequest
from mergegrid.study.tasks.encoding import encode
from mergegrid.study.tasks.examples import examples_digest
from mergegrid.study.tasks.metrics import predictions_of, score

STAGE_VERSIONS = {"finetune_encoder": 1}


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
    made_from = training_inputs(
        "finetune_encoder", base, examples_digest(examples), request, device
    )
    state = state_folder(folder, made_from)
    set_seed(request.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load_with_head(base, target)
    splits = {
        name: _EncodedExamples(tokenizer, examples[examples["split"] == name], target.max_length)
        for name in ("train", "validation")
    }

    def validation_score(result: EvalPrediction) -> dict[str, float]:
        predictions = predictions_of(np.asarray(result.predictions), target.metric)
        return {"score": score(target.metric, np.asarray(result.label_ids), predictions)}

    prepare_device(device)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            **common_arguments(settings, request.seed, state, device),
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=64,
            lr_scheduler_type="linear",
            # The best epoch is kept in addition to the last one.
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=validation_score,
        callbacks=[EpochLog("eval_score", "validation"), CheckpointDigests()],
        **trainer_optimizer(settings, model.base_model.parameters()),
    )
    curve = [
        {"epoch": entry["epoch"], "validation": entry["eval_score"], "loss": entry["eval_loss"]}
        for entry in train(trainer, state)
    ]
    made_from["libraries"] = library_versions("finetune_encoder")
    save_expert(model.cpu(), tokenizer, folder, request, made_from, curve)
    shutil.rmtree(state)


class _EncodedExamples(Dataset[dict[str, Any]]):
    """Token ids and label of each example."""

    def __init__(self, tokenizer: Any, examples: pd.DataFrame, max_length: int) -> None:
        self._encoded = encode(tokenizer, examples, max_length)
        self._labels = examples["label"].tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**self._encoded[row], "label": self._labels[row]}
