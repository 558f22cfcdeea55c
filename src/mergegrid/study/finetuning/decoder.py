"""Fine-tune a decoder on instructions with the transformers Trainer: all parameters, or LoRA.

Only answers are learned: the loss is the mean over their tokens, and only the hidden states in
front of them go through the output layer. Weights and optimizer are float32; publishing rounds the
expert once, to the dtypes of its base. The seed determines the order of the examples, dropout and
the adapters. An interrupted training resumes after its last finished epoch and ends with the same
weights: on the CPU, and on one model of GPU (see `cuda`).

Limits: one device; the model, its gradients and two moments must fit into its memory.
"""

import logging
import shutil
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
    TrainingArguments,
    set_seed,
)

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.checkpoint import Checkpoint, InMemory
from mergegrid.checkpoints.dtypes import Stored, encode
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import publish
from mergegrid.checkpoints.tensor_names import (
    canonical,
    read_config,
    with_names_of_base,
    with_tied_embeddings,
)
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.stages import library_versions
from mergegrid.study.decoders.importing import write_weights
from mergegrid.study.encoders.importing import write_training
from mergegrid.study.finetuning.adamr import trainer_optimizer
from mergegrid.study.finetuning.chat_data import (
    IGNORED,
    EncodedExamples,
    ExampleEncoder,
    PaddingCollator,
)
from mergegrid.study.finetuning.cuda import check_memory, prepare_device
from mergegrid.study.finetuning.resuming import CheckpointDigests, state_folder
from mergegrid.study.finetuning.training import EpochLog, common_arguments, train, training_inputs
from mergegrid.study.runtime.transformers_compat import (
    GROUP_BY_LENGTH,
    output_layer_only_at,
    report_evaluation,
)
from mergegrid.study.schema.decoder_jobs import DecoderFinetuneRequest
from mergegrid.study.schema.finetuning import DecoderFinetune, Lora
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
    tokenizer. `training.json` beside them holds settings, seed and the validation loss after every
    epoch. State for resuming lives in `<folder>.state` until the expert is published; it is used
    only by a run with the same inputs, device and stage version.

    Raises:
        CheckpointError: the base lacks parameters of its class, or lacks a chat template that the
            request needs, or training diverged.
        ConfigError: the batch size is not divisible by `accumulation`, no layer matches
            `lora.targets`, or the GPU has too little memory or no bfloat16.
        DataError: no example is short enough.
    """
    settings = request.settings
    made_from = training_inputs(
        "finetune_decoder", base, examples_digest(examples), request, device
    )
    encoder = ExampleEncoder(base, request.prompt, request.chat)
    splits = {
        name: EncodedExamples(encoder, examples[examples["split"] == name], settings.max_length)
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
    check_memory(
        model, settings.precision == "bfloat16", device, towards_base=settings.towards_base > 0
    )
    trainer = _AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=PaddingCollator(encoder.pad_token_id),
        callbacks=[EpochLog("eval_loss", "validation loss"), CheckpointDigests()],
        **trainer_optimizer(settings, model.parameters()),
    )
    curve = [
        {"epoch": entry["epoch"], "loss": entry["eval_loss"]} for entry in train(trainer, state)
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
        learned = labels[:, 1:] != IGNORED
        with output_layer_only_at(self.accelerator.unwrap_model(model), learned):
            outputs = model(**inputs)
        logits = outputs.logits.reshape(-1, outputs.logits.shape[-1]).float()
        losses = cross_entropy(logits, labels[:, 1:][learned], reduction="sum")
        loss = losses / (num_items_in_batch if num_items_in_batch is not None else learned.sum())
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Mean loss over all tokens of the validation answers, independent of batching."""
        assert self.model is not None
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in self.get_eval_dataloader():
                inputs = {key: tensor.to(self.args.device) for key, tensor in batch.items()}
                count += int((inputs["labels"][:, 1:] != IGNORED).sum())
                total += float(self.compute_loss(self.model, inputs, num_items_in_batch=1))
        metrics = {f"{metric_key_prefix}_loss": total / count}
        report_evaluation(self, metrics)
        return metrics


class _Rounded(Checkpoint):
    """Trained float32 tensors in the dtypes of the base; the other tensors are the base's own."""

    def __init__(self, trained: Checkpoint, base: Checkpoint) -> None:
        super().__init__(base.infos)
        self._trained, self._base = trained, base

    def read(self, name: str, start: int, stop: int, buffer: Stored) -> Stored:
        """Read elements of a tensor in its stored dtype."""
        if name not in self._trained:
            read: Stored = self._base.read(name, start, stop, buffer)
            return read
        values = np.empty(stop - start, np.float32)
        encode(self._trained.read(name, start, stop, values), self.infos[name].dtype, buffer)
        return buffer


def _load(base: Path) -> Any:
    """Load a base in float32, and check that it is complete and can be published once trained."""
    checkpoint = open_checkpoint(base)
    canonical(checkpoint, read_config(base), str(base))
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise CheckpointError(
            f"{base} lacks {len(missing)} tensors of {type(model).__name__}, first {missing[0]}, "
            "which would be initialized at random; download the whole model, or correct its "
            "config.json"
        )
    if unexpected:
        logger.warning(
            "%d tensors are not part of %s and stay unchanged, first %s",
            len(unexpected),
            type(model).__name__,
            unexpected[0],
        )
    parameters = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    _named_as_in(checkpoint, InMemory(parameters), base, base)
    return model


def _named_as_in(stored: Checkpoint, trained: Checkpoint, folder: Path, base: Path) -> Checkpoint:
    """Rename trained tensors to the names that the base has in its files.

    Args:
        stored: the files of the base.
        trained: tensors of the model class.
        folder: holds the config of `trained`.
        base: folder of the base.

    Raises:
        CheckpointError: the base has no name for some of them.
    """
    named = with_names_of_base(trained, stored, read_config(base), str(base))
    unknown = sorted(set(named) - set(with_tied_embeddings(stored, base, named)))
    if unknown:
        raise CheckpointError(
            f"{base} lacks {unknown[0]}, a tensor of the class in its config; download the whole "
            "model"
        )
    return with_tied_embeddings(named, folder, stored)


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
            f"lora.targets = {lora.targets}: {error}; list names of linear layers of the model, "
            "or use all-linear"
        ) from error


def _arguments(settings: DecoderFinetune, seed: int, state: Path, device: str) -> TrainingArguments:
    part, rest = divmod(settings.batch_size, settings.accumulation)
    if rest or not part:
        raise ConfigError(
            f"batch_size {settings.batch_size} is not divisible by accumulation "
            f"{settings.accumulation}; change one of them"
        )
    return TrainingArguments(
        **common_arguments(settings, seed, state, device),
        per_device_train_batch_size=part,
        per_device_eval_batch_size=part,
        gradient_accumulation_steps=settings.accumulation,
        **GROUP_BY_LENGTH,
        lr_scheduler_type="cosine",
        bf16=settings.precision == "bfloat16",
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        remove_unused_columns=False,
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
    stored, saved = open_checkpoint(base), open_checkpoint(scratch)
    trained = _named_as_in(stored, saved, scratch, base)
    with publish(folder, made_from) as draft:
        model_files.copy_files(base, model_files.config_files(base), draft.path)
        model_files.copy_files(base, model_files.tokenizer_files(base), draft.path)
        write_weights(draft, _Rounded(trained, stored), "the fine-tuned model")
        write_training(draft.path, request, curve)
