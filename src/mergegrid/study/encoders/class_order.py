"""The order of the classes that a ready classifier answers with, and that of its task.

`roberta-large-mnli` answers contradiction, neutral, entailment; GLUE lists entailment, neutral,
contradiction. Taken as they come, right answers would count as wrong ones.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mergegrid.checkpoints.location import read_json
from mergegrid.errors import CheckpointError

_PLACEHOLDER = re.compile(r"(?:label[ _]?)?(\d+)", re.IGNORECASE)


def class_names(folder: Path) -> list[str] | None:
    """What the config of a classifier calls its outputs, in their order; None where it does not.

    Raises:
        CheckpointError: the names are not numbered from 0, or two parts of the config disagree.
    """
    path = folder / "config.json"
    config = read_json(path)
    numbers = config.get("label2id")
    try:
        found = _in_order({int(at): str(name) for at, name in (config["id2label"] or {}).items()})
    except KeyError:
        found = None
    except (AttributeError, TypeError, ValueError) as error:
        raise _unclear(path, "id2label", config["id2label"]) from error
    try:
        other = _in_order({int(at): str(name) for name, at in (numbers or {}).items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise _unclear(path, "label2id", numbers) from error
    if found is None or other is None or found == other or _are_placeholders(other):
        return found or other
    if _are_placeholders(found):
        return other
    raise CheckpointError(
        f"{path} contradicts itself: id2label names the classes {found}, label2id {other}; "
        "correct the wrong one"
    )


def outputs_of(names: Sequence[str], labels: Sequence[Any], source: str) -> list[int] | None:
    """The output of a classifier for each label of a task; None where its names say nothing.

    Names are compared without regard to case, spaces, hyphens and underscores, unless labels
    differ in nothing else.

    Args:
        names: what the classifier calls its outputs, in their order.
        labels: the labels of the task, or what it calls them.
        source: the classifier, in messages.

    Raises:
        CheckpointError: the names are not those of the task.
    """
    wanted = [str(label) for label in labels]
    for form in (str.strip, _plain):
        ours, theirs = [form(each) for each in wanted], [form(each) for each in names]
        if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
            return [theirs.index(each) for each in ours]
    if _are_placeholders(names):
        return None
    raise CheckpointError(
        f"{source} answers with the classes {', '.join(names)} and the labels of the task are "
        f"{', '.join(wanted)}, so which is which is unknown; name the checkpoint that was "
        "fine-tuned for this task, or write the names of its classes, in the order of `labels`, "
        "as `label_names` of the task"
    )


def reorder(model: PreTrainedModel, outputs: Sequence[int]) -> None:
    """Reorder what a classifier answers, in place: its class i becomes what output[i] was.

    Raises:
        CheckpointError: the model's classes are not rows of its head.
    """
    state = model.state_dict()
    rows = _rows_per_class(model, len(outputs))
    with torch.no_grad():
        for name in rows:
            state[name].copy_(state[name][list(outputs)].clone())


def _rows_per_class(model: PreTrainedModel, classes: int) -> list[str]:
    """Tensors with a row per class: those that have one more where there is one class more."""
    config = copy.deepcopy(model.config)
    config.num_labels = classes + 1
    with torch.device("meta"):
        larger = type(model)(config).state_dict()
    shapes = {
        name: (tuple(tensor.shape), tuple(larger[name].shape))
        for name, tensor in model.state_dict().items()
    }
    differing = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    if not differing or any(
        (ours[0] + 1, *ours[1:]) != theirs for ours, theirs in differing.values()
    ):
        raise CheckpointError(
            f"the classes of {type(model).__name__} are not rows of its head, so that they cannot "
            "be put in the order of the task; list the labels in the order of the checkpoint"
        )
    return list(differing)


def _in_order(names: Mapping[int, str]) -> list[str] | None:
    if sorted(names) != list(range(len(names))):
        raise ValueError("not numbered from 0")
    return [names[at] for at in range(len(names))] or None


def _are_placeholders(names: Sequence[str]) -> bool:
    """Whether names say no more than their position: `LABEL_0`, `LABEL_1`."""
    found = [_PLACEHOLDER.fullmatch(name.strip()) for name in names]
    return all(match is not None and int(match[1]) == at for at, match in enumerate(found))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _unclear(path: Path, key: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{path}: {key} is {str(value)[:200]}, which does not number the classes from 0; correct it"
    )
