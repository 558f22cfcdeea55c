"""Import encoders into one folder layout with one set of tensor names per architecture.

Published encoders differ in tensor names (with or without a `bert.` prefix, `gamma` for `weight`),
in files (safetensors, `pytorch_model.bin`) and in further tensors (language-model heads, poolers).
Loading them as sequence classifiers and saving them again removes the differences: a base keeps
exactly the tensors that its file gave to the classifier, an expert its task head too.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from mergegrid.checkpoints.adapters.adapter import is_adapter
from mergegrid.checkpoints.architectures import is_task_head
from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.compatibility import (
    check_configs,
    check_homologous,
    unmerged_tensors,
)
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import publish
from mergegrid.checkpoints.tensor_names import read_config
from mergegrid.errors import CheckpointError
from mergegrid.settings import Settings
from mergegrid.study.encoders.class_order import class_names, outputs_of, reorder
from mergegrid.study.schema.encoder_jobs import FinetuneRequest
from mergegrid.study.schema.tasks import Target

STAGE_VERSIONS = {"import_encoder": 1}

logger = logging.getLogger(__name__)

TRAINING = "training.json"


def import_base(source: Path, folder: Path, made_from: dict[str, Any]) -> None:
    """Publish a pre-trained encoder without any head.

    Raises:
        CheckpointError: the source is incomplete, or not an encoder that can classify sequences.
    """
    model, fresh = _load(source, num_labels=2)
    body = f"{model.base_model_prefix}."
    lost = sorted(name for name in fresh if name.startswith(body) and not is_task_head(name, {}))
    if lost:
        raise CheckpointError(
            f"{source} lacks {len(lost)} tensors of {type(model).__name__}, first {lost[0]}; "
            "download the whole model, or correct its config.json"
        )
    tensors = {
        name: tensor
        for name, tensor in _tensors(model).items()
        if name not in fresh and name.startswith(body)
    }
    if not tensors:
        raise CheckpointError(
            f"{source} has no tensor of {type(model).__name__}; check its config.json"
        )
    logger.info("%s: %d tensors, without %s", type(model).__name__, len(tensors), sorted(fresh))
    config, tokenizer = AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    with publish(folder, made_from) as draft:
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(draft.path)
        tokenizer.save_pretrained(draft.path)


def import_expert(
    source: Path, base: Path, request: FinetuneRequest, folder: Path, made_from: dict[str, Any]
) -> None:
    """Publish a ready expert with its task head.

    Raises:
        CheckpointError: the source is an adapter or has no head, its head has other classes than
            the task, or its tensors differ from those of the base in name or shape.
    """
    if is_adapter(source):
        raise CheckpointError(
            f"{source} is a LoRA adapter, and an expert encoder comes with its task head; merge it "
            "into its base with PEFT (merge_and_unload) and import the resulting folder"
        )
    target = request.target
    outputs = max(len(target.classes), 1)
    names = class_names(source)
    count = len(names) if names else AutoConfig.from_pretrained(source).num_labels
    if count != outputs:
        raise CheckpointError(
            f"{source} answers with {count} labels, but the task has {outputs}; choose the "
            "checkpoint that was fine-tuned for this task"
        )
    model, fresh = _load(source, num_labels=outputs)
    if fresh:
        raise CheckpointError(
            f"{source} lacks {sorted(fresh)[0]} of {type(model).__name__}, so it is not a "
            "fine-tuned classifier; choose another checkpoint, or remove `source` to fine-tune one"
        )
    for difference in check_configs(base, source, str(source)):
        logger.warning("%s", difference)
    base_tensors, expert_tensors = open_checkpoint(base), InMemory(_tensors(model))
    check_homologous(base_tensors, expert_tensors, str(source))
    configs = read_config(base), read_config(source)
    unmerged_tensors(base_tensors, expert_tensors, str(source), *configs)
    notes = [] if target.is_regression else _match_class_order(model, names, target, source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    save_expert(model, tokenizer, folder, request, made_from, notes=notes)


def _match_class_order(
    model: PreTrainedModel, names: Sequence[str] | None, target: Target, source: Path
) -> list[str]:
    """Put the classes of a ready expert in the order of its task; return notes for the user."""
    labels = target.label_names or target.classes
    order = None if names is None else outputs_of(names, labels, str(source))
    if order is None:
        note = (
            "the checkpoint does not name its classes; they are assumed to be in the order of the "
            f"task: {', '.join(map(str, labels))}"
        )
        logger.warning("%s: %s", source, note)
        return [note]
    if order == sorted(order):
        return []
    reorder(model, order)
    note = f"classes {', '.join(names or [])} reordered to {', '.join(map(str, labels))}"
    logger.info("%s: %s", source, note)
    return [note]


def save_expert(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    request: FinetuneRequest,
    made_from: dict[str, Any],
    curve: Sequence[Mapping[str, float]] = (),
    notes: Sequence[str] = (),
) -> None:
    """Publish a fine-tuned classifier with a description of its training, `training.json`."""
    for key, names in _class_names_in_config(request.target).items():
        setattr(model.config, key, names)
    with publish(folder, made_from) as draft:
        save_file(_tensors(model), draft / "model.safetensors", metadata={"format": "pt"})
        model.config.save_pretrained(draft.path)
        tokenizer.save_pretrained(draft.path)
        write_training(draft.path, request, curve, notes)


def write_training(
    folder: Path, request: Settings, curve: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()
) -> None:
    """Write `training.json`: the request, the validation curve, and notes if there are any."""
    training = {**request.model_dump(mode="json"), "curve": list(curve)}
    if notes:
        training["notes"] = list(notes)
    (folder / TRAINING).write_text(json.dumps(training, indent=2, sort_keys=True) + "\n")


def load_classifier(folder: Path, **config: Any) -> PreTrainedModel:
    """Load a published encoder as a float32 classifier; missing tensors are random."""
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, **config
    )
    return model


def load_with_head(base: Path, target: Target) -> PreTrainedModel:
    """Load a base as a float32 classifier with a random head and the loss of a task."""
    if target.is_regression:
        return load_classifier(base, num_labels=1, problem_type="regression")
    return load_classifier(
        base,
        num_labels=len(target.classes),
        problem_type="single_label_classification",
        **_class_names_in_config(target),
    )


def _class_names_in_config(target: Target) -> dict[str, dict[Any, Any]]:
    """Config keys that name the classes of a task; nothing for a regression."""
    if target.is_regression:
        return {}
    names = {index: str(label) for index, label in enumerate(target.classes)}
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def _load(source: Path, num_labels: int) -> tuple[PreTrainedModel, set[str]]:
    """Load a classifier, and return it with the names of the tensors that the source lacks."""
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=num_labels, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{source} cannot be loaded as an encoder for sequence classification: {error}; choose "
            "an encoder"
        ) from error
    return model, set(info["missing_keys"])


def _tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a model, tied ones under the first of their names.

    Raises:
        CheckpointError: a value is not finite.
    """
    state = model.state_dict()
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    tensors = {name: state[name].contiguous() for name in sorted(state) if name not in tied}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{name} has values that are not finite: the checkpoint is damaged, or training "
                "diverged; download it again, or lower the learning rate"
            )
    return tensors
