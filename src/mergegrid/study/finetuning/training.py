"""Training code shared by encoders and decoders: arguments, epoch log and reproducible inputs."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mergegrid.checkpoints.publish import published_digest
from mergegrid.progress import SECONDS_BETWEEN_LINES
from mergegrid.settings import Settings
from mergegrid.stages import stage_versions
from mergegrid.study.finetuning.resuming import last_checkpoint
from mergegrid.study.runtime.transformers_compat import remove_printer, warmup
from mergegrid.study.schema.finetuning import DecoderFinetune, Finetune

logger = logging.getLogger(__name__)


def training_inputs(stage: str, base: Path, examples: Any, request: Settings, device: str) -> Any:
    """Everything that trained weights depend on.

    Args:
        stage: key of the stage version.
        base: published folder of the base.
        examples: digest of the examples, or a list of digests.
        request: settings, seed and tasks.
        device: `cpu` or `cuda`.
    """
    return {
        "base": published_digest(base),
        "examples": examples,
        "request": request.model_dump(mode="json"),
        "device": device,
        "versions": stage_versions(stage),
    }


def common_arguments(
    settings: Finetune | DecoderFinetune, seed: int, state: Path, device: str
) -> dict[str, Any]:
    """Training arguments that do not depend on the kind of model; one checkpoint per epoch."""
    return {
        "output_dir": str(state),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        **warmup(settings.warmup_ratio),
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": not sys.stderr.isatty(),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device != "cpu",
    }


def train(trainer: Trainer, state: Path) -> list[dict[str, float]]:
    """Train to the last epoch, resuming from `state`; return the metrics of each evaluation."""
    remove_printer(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(state))
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


class EpochLog(TrainerCallback):
    """Logs one line per epoch, and every ten seconds the steps that are done and the time left."""

    def __init__(self, metric: str, name: str) -> None:
        self._metric, self._name = metric, name
        self._start = self._last = time.monotonic()
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note the time and, of a resumed training, the step."""
        self._start = self._last = time.monotonic()
        self._first_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Log the progress, not more often than every ten seconds."""
        now, step = time.monotonic(), state.global_step
        if now - self._last >= SECONDS_BETWEEN_LINES:
            per_step = (now - self._start) / (step - self._first_step)
            left = per_step * (state.max_steps - step)
            logger.info("step %d of %d, about %.0f s left", step, state.max_steps, left)
            self._last = now

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Log the metric of the epoch that ended."""
        if metrics:
            logger.info(
                "epoch %d of %d: %s %.4f",
                round(state.epoch or 0),
                round(args.num_train_epochs),
                self._name,
                metrics[self._metric],
            )
