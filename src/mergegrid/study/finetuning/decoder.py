"""Fine-tuning a decoder on instructions with the transformers Trainer, whole or by LoRA.

Only answers are learnt: the loss is the mean over their tokens, and only the states in front of
them go through the output layer. Weights and optimizer are float32; the expert is rounded once, to
the dtypes of its base, when it is published. The seed governs the order of the examples, dropout
and the adapters. An interrupted run goes on after its last finished epoch and ends with the same
weights: on the CPU, and on one model of GPU (see `cuda`).

Limits: one device; the model, its gradients and two moments must fit into its memory.
"""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.checkpoint import Checkpoint, InMemory
from mergegrid.checkpoints.dtypes import Stored, encode
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import publish, published_digest
from mergegrid.checkpoints.tensor_names import (
    canonical,
    read_config,
    with_names_of_base,
    with_tied_embeddings,
)
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.stages import library_versions, stage_versions
from mergegrid.study.decoders.importing import write_weights
from mergegrid.study.encoders.importing import TRAINING
from mergegrid.study.finetuning.cuda import check_memory, prepare_device
from mergegrid.study.finetuning.dialogues import IGNORED, Collator, Dialogues, Encoded
from mergegrid.study.finetuning.state import Seal, last_checkpoint, state_folder
from mergegrid.study.schema.decoder_jobs import DecoderFinetuneRequest
from mergegrid.study.schema.decoders import DecoderFinetune, Lora
from mergegrid.study.tasks.examples import examples_digest

STAGE_VERSIONS = {"finetune_decoder": 1}

logger = logging.getLogger(__name__)


def finetune_decoder(
    base: Path,
    request: DecoderFinetuneRequest,
    examples: pd.DataFrame,
    folder: Path,
    device: str = "cpu",
) -> None:
    """Fine-tune a base on instructions and publish the expert at `folder`.

    The expert has the tensors of its base, with their names, shapes and dtypes, its config and its
    tokenizer. Beside them lies `training.json`: settings, seed and the validation loss after every
    epoch. State for resuming lives in `<folder>.state` until the expert is published; it is used
    only by a run with the same inputs, device and stage version.

    Raises:
        CheckpointError: the base lacks parameters of its class or has no chat template though one
            is asked for, or the training broke down.
        ConfigError: a step cannot be divided as asked, no layer has the name of an adapter's, the
            GPU lacks the memory, or it cannot compute in bfloat16.
        DataError: no example is short enough.
    """
    settings = request.settings
    made_from = {
        "base": published_digest(base),
        "examples": examples_digest(examples),
        "request": request.model_dump(mode="json"),
        "device": device,
        "versions": stage_versions("finetune_decoder"),
    }
    dialogues = Dialogues(base, request.prompt, request.chat)
    splits = {
        name: Encoded(dialogues, examples[examples["split"] == name], settings.max_length)
        for name in ("train", "validation")
    }
    state = state_folder(folder, made_from)
    arguments = _arguments(settings, request.seed, state, device)
    set_seed(request.seed)
    model = _load(base)
    model.config.use_cache = False
    if settings.lora is not None:
        model = _with_adapters(model, settings.lora)
    prepare_device(device)
    check_memory(model, settings.precision == "bfloat16", device)
    trainer = _AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=Collator(dialogues.padding),
        callbacks=[_Progress(), Seal()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(state))
    curve = [
        {"epoch": entry["epoch"], "loss": entry["eval_loss"]}
        for entry in trainer.state.log_history
        if "eval_loss" in entry
    ]
    if settings.lora is not None:
        model = model.merge_and_unload()
    made_from["libraries"] = library_versions("finetune_decoder")
    _publish(base, model, state / "trained", request, made_from, curve, folder)
    shutil.rmtree(state)


class _AnswerTrainer(Trainer):
    """A Trainer whose loss is the mean over the tokens of answers."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of a part of a step, as its share of the step's tokens."""
        labels = inputs.pop("labels")
        # The state at each token predicts the next one.
        wanted = labels[:, 1:] != IGNORED
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        handle = head.register_forward_pre_hook(_only_at(wanted))
        try:
            outputs = model(**inputs)
        finally:
            handle.remove()
        logits = outputs.logits.reshape(-1, outputs.logits.shape[-1]).float()
        losses = cross_entropy(logits, labels[:, 1:][wanted], reduction="sum")
        loss = losses / (num_items_in_batch if num_items_in_batch is not None else wanted.sum())
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Mean loss over all tokens of the validation answers, however they are batched."""
        assert self.model is not None
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad(), self.compute_loss_context_manager():
            for batch in self.get_eval_dataloader():
                inputs = self._prepare_inputs(batch)
                count += int((inputs["labels"][:, 1:] != IGNORED).sum())
                total += float(self.compute_loss(self.model, inputs, num_items_in_batch=1))
        metrics = {f"{metric_key_prefix}_loss": total / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


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
                "epoch %d of %d: validation loss %.4f",
                round(state.epoch or 0),
                round(args.num_train_epochs),
                metrics["eval_loss"],
            )


class _Rounded(Checkpoint):
    """What was trained in float32, in the dtypes of its base; what was not, as the base has it."""

    def __init__(self, trained: Checkpoint, base: Checkpoint) -> None:
        super().__init__(base.infos)
        self._trained, self._base = trained, base

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Elements of a tensor as they are to be stored."""
        if name not in self._trained:
            read: Stored = self._base.read(name, start, stop, buffer)
            return read
        values = np.empty(stop - start, np.float32)
        encode(self._trained.read(name, start, stop, values), self.infos[name].dtype, buffer)
        return buffer


def _only_at(wanted: torch.Tensor) -> Callable[[torch.nn.Module, Any], tuple[torch.Tensor]]:
    """A hook that hands on only those states [1, n, width] whose next token is `wanted`."""

    def select(_: torch.nn.Module, arguments: Any) -> tuple[torch.Tensor]:
        return (arguments[0][:, :-1][wanted].unsqueeze(0),)

    return select


def _load(base: Path) -> Any:
    """A base in float32, checked to be whole, and such that what is trained can be published."""
    started = open_checkpoint(base)
    canonical(started, read_config(base), str(base))
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise CheckpointError(
            f"{base} lacks {len(missing)} tensors of {type(model).__name__}, first {missing[0]}, "
            "which would start at random; download the whole model, or correct its config.json"
        )
    if unexpected:
        logger.warning(
            "%d tensors are no part of %s and stay as they are, first %s",
            len(unexpected),
            type(model).__name__,
            unexpected[0],
        )
    own = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    _in_names_of(started, InMemory(own), base, base)
    return model


def _in_names_of(started: Checkpoint, trained: Checkpoint, folder: Path, base: Path) -> Checkpoint:
    """What is trained, whose config is in `folder`, with the names that the base has in its file.

    Raises:
        CheckpointError: the base has no name for some of it.
    """
    named = with_names_of_base(trained, started, read_config(base), str(base))
    strangers = sorted(set(named) - set(with_tied_embeddings(started, base, named)))
    if strangers:
        raise CheckpointError(
            f"{base} lacks {strangers[0]}, which the class of its config has; download the whole "
            "model"
        )
    return with_tied_embeddings(named, folder, started)


def _with_adapters(model: PreTrainedModel, lora: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(
            f"lora.targets = {lora.targets}: {error}; name linear layers of the model, "
            "or write all-linear"
        ) from error


def _arguments(settings: DecoderFinetune, seed: int, state: Path, device: str) -> TrainingArguments:
    part, rest = divmod(settings.batch_size, settings.accumulation)
    if rest or not part:
        raise ConfigError(
            f"a step of batch_size {settings.batch_size} cannot be divided into "
            f"{settings.accumulation} equal parts; correct `accumulation`"
        )
    return TrainingArguments(
        output_dir=str(state),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=part,
        per_device_eval_batch_size=part,
        gradient_accumulation_steps=settings.accumulation,
        train_sampling_strategy="group_by_length",
        # A float below 1 is a share of the steps.
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type="cosine",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bfloat16",
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
    )


def _publish(
    base: Path,
    model: PreTrainedModel,
    scratch: Path,
    request: DecoderFinetuneRequest,
    made_from: dict[str, Any],
    curve: list[dict[str, float]],
    folder: Path,
) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    model.cpu().save_pretrained(scratch)
    started, saved = open_checkpoint(base), open_checkpoint(scratch)
    trained = _in_names_of(started, saved, scratch, base)
    with publish(folder, made_from) as draft:
        model_files.copy_files(base, model_files.config_files(base), draft.path)
        model_files.copy_files(base, model_files.tokenizer_files(base), draft.path)
        write_weights(draft, _Rounded(trained, started), "the fine-tuned model")
        training = {**request.model_dump(mode="json"), "curve": curve}
        (draft / TRAINING).write_text(json.dumps(training, indent=2, sort_keys=True) + "\n")
