"""Match the order of a ready classifier's outputs with the labels of its task.

`roberta-large-mnli` answers contradiction, neutral, entailment; GLUE lists entailment, neutral,
contradiction. Without reordering, correct answers would count as wrong.
"""

import copy
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError

_PLACEHOLDER = re.compile(r"(?:label[ _]?)?(\d+)", re.IGNORECASE)


def class_names(folder: Path) -> list[str] | None:
    """Read the names of a classifier's outputs, in order, from its config; None if it has none.

    Raises:
        CheckpointError: the names are not numbered from 0, or two parts of the config disagree.
    """
    path = folder / "config.json"
    config = read_json(path)
    by_id = _ordered(path, "id2label", config.get("id2label"))
    by_label = _ordered(path, "label2id", config.get("label2id"))
    if by_id is None or by_label is None or by_id == by_label or _are_placeholders(by_label):
        return by_id or by_label
    if _are_placeholders(by_id):
        return by_label
    raise CheckpointError(
        f"{path} contradicts itself: id2label names the classes {by_id}, label2id {by_label}; "
        "correct the wrong one"
    )


def outputs_of(names: Sequence[str], labels: Sequence[Any], source: str) -> list[int] | None:
    """Find the output of a classifier for each label of a task; None if names are placeholders.

    Names are compared without regard to case, spaces, hyphens and underscores, unless labels
    differ in nothing else.

    Args:
        names: names of the classifier's outputs, in order.
        labels: labels of the task, or their names.
        source: the classifier, for messages.

    Raises:
        CheckpointError: the names are not those of the task.
    """
    texts = [str(label) for label in labels]
    for normalize in (str.strip, _plain):
        task, model = [normalize(text) for text in texts], [normalize(name) for name in names]
        if sorted(task) == sorted(model) and len(set(task)) == len(task):
            return [model.index(name) for name in task]
    if _are_placeholders(names):
        return None
    raise CheckpointError(
        f"{source} answers with the classes {', '.join(names)}, which do not match the labels of "
        f"the task, {', '.join(texts)}; choose the checkpoint that was fine-tuned for this task, "
        "or list the names of its classes, in the order of `labels`, as `label_names` of the task"
    )


def reorder(model: PreTrainedModel, outputs: Sequence[int]) -> None:
    """Reorder the outputs of a classifier in place: output i becomes the former `outputs[i]`.

    Raises:
        CheckpointError: the model's classes are not rows of its head.
    """
    state = model.state_dict()
    rows = _rows_per_class(model, len(outputs))
    with torch.no_grad():
        for name in rows:
            state[name].copy_(state[name][list(outputs)].clone())


def _rows_per_class(model: PreTrainedModel, classes: int) -> list[str]:
    """Find the tensors with a row per class: they gain a row when a class is added."""
    config = copy.deepcopy(model.config)
    config.num_labels = classes + 1
    with torch.device("meta"):
        larger = type(model)(config).state_dict()
    changed = {
        name: (tensor.shape, larger[name].shape)
        for name, tensor in model.state_dict().items()
        if tensor.shape != larger[name].shape
    }
    if not changed or any((now[0] + 1, *now[1:]) != after for now, after in changed.values()):
        raise CheckpointError(
            f"the classes of {type(model).__name__} are not rows of its head, so they cannot be "
            "reordered; list the labels of the task in the order of the checkpoint"
        )
    return list(changed)


def _ordered(path: Path, key: str, value: Any) -> list[str] | None:
    """Return the class names in `id2label` or `label2id`, ordered by their numbers."""
    with suppress(AttributeError, TypeError, ValueError):
        pairs = (value or {}).items()
        if key == "label2id":
            pairs = [(at, name) for name, at in pairs]
        names = {int(at): str(name) for at, name in pairs}
        if sorted(names) == list(range(len(names))):
            return [names[at] for at in range(len(names))] or None
    raise CheckpointError(
        f"{path}: {key} is {str(value)[:200]}, which does not number the classes from 0; correct it"
    )


def _are_placeholders(names: Sequence[str]) -> bool:
    """Tell whether names are positions only: `LABEL_0`, `LABEL_1`."""
    matches = [_PLACEHOLDER.fullmatch(name.strip()) for name in names]
    return all(match is not None and int(match[1]) == at for at, match in enumerate(matches))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
