"""Whether a model was fine-tuned from a base: the same tensors, and a config that agrees.

Equal shapes are not enough. `CodeLlama-13b-Python` has the shapes of `Llama-2-13b`, but other
rotary embeddings: the difference of the two is no delta that can be merged.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.dtypes import Stored
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.vocabulary import INPUTS, OUTPUTS
from mergegrid.errors import CheckpointError

logger = logging.getLogger(__name__)

_MUST_AGREE = (
    "model_type",
    *("hidden_size", "n_embd", "d_model"),
    *("num_hidden_layers", "n_layer", "num_layers"),
    *("num_attention_heads", "n_head", "num_heads"),
    *("num_key_value_heads", "head_dim"),
    *("intermediate_size", "n_inner", "d_ff"),
    *("hidden_act", "hidden_activation", "activation_function"),
)
_MAY_DIFFER = (
    # The first configs of Llama 2 said 1e-6 where 1e-5 was meant, and experts copied them.
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    # Without another scaling of the rotary embeddings this is no more than a limit on lengths.
    "max_position_embeddings",
)
_FIRST_THETA = {"llama": 10000.0}
"""What configs meant that were written before `rope_theta` was a key."""


def check_homologous(base: Checkpoint, expert: Checkpoint, expert_name: str) -> None:
    """Check that an expert has every tensor of its base, in the same shape.

    Tensors that only the expert has are its task head and stay out of merges.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    missing = [name for name in base if name not in expert]
    if missing:
        raise CheckpointError(
            f"expert {expert_name} lacks {len(missing)} tensors of its base, first {missing[0]}; "
            "it was not fine-tuned from this base: name the right one"
        )
    for name in base:
        ours, theirs = base.infos[name].shape, expert.infos[name].shape
        if ours != theirs:
            raise CheckpointError(
                f"{name} is {ours} in the base and {theirs} in expert {expert_name}; "
                "only models of equal shapes can be merged: name the right base"
            )


def check_configs(base_folder: Path, expert_folder: Path, expert_name: str) -> None:
    """Check that what `config.json` says of base and expert is one architecture.

    A key is compared where both have it. Where only values differ that change no meaning of the
    parameters, the log says so, and that a merge takes the base's.

    Raises:
        CheckpointError: the architectures differ; all keys are named, with both values.
    """
    ours, theirs = _config(base_folder), _config(expert_folder)
    if not ours or not theirs:
        lacking = expert_folder if ours else base_folder
        logger.warning("%s has no config.json: expert %s is not checked", lacking, expert_name)
        return
    differing = [
        *_differing(ours, theirs, _MUST_AGREE),
        *_differing(_rope(ours), _rope(theirs), sorted(_rope(ours) | _rope(theirs))),
    ]
    if ours.get("tie_word_embeddings") is True and theirs.get("tie_word_embeddings") is False:
        differing.append("tie_word_embeddings (True in the base, False in the expert)")
    if differing:
        raise CheckpointError(
            f"expert {expert_name} is not of the base's architecture, as config.json says: "
            f"{', '.join(differing)}; it was not fine-tuned from this base: name the right one"
        )
    for difference in _differing(ours, theirs, _MAY_DIFFER):
        logger.warning("expert %s: %s; the merge has the base's", expert_name, difference)


def with_tied(checkpoint: Checkpoint, folder: Path, names: Iterable[str]) -> Checkpoint:
    """A checkpoint that also offers those of `names` which it lacks as tied embeddings.

    A model that uses one matrix for input and output is saved with either name or with both; a
    base and an expert may have been saved differently. What else is missing stays missing.
    """
    config = _config(folder)
    # Before transformers 5, a config left out the key where it was true.
    if not config or config.get("tie_word_embeddings") is False:
        return checkpoint
    embeddings = [f".{module}.weight" for module in (*INPUTS, *OUTPUTS)]
    saved = [name for end in embeddings for name in checkpoint if f".{name}".endswith(end)]
    missing = [name for name in names if name not in checkpoint]
    tied = {name: saved[0] for name in missing if saved and f".{name}".endswith(tuple(embeddings))}
    for name, saved_name in tied.items():
        logger.info("%s: %s is tied to %s", folder, name, saved_name)
    return AliasedCheckpoint(checkpoint, tied) if tied else checkpoint


def without_tied_copy(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """A checkpoint without its output embeddings, where the config ties them to the input's.

    Old files hold one matrix under both names. Each name has a mask of its own, so merging both
    would give two matrices for one.
    """
    if _config(folder).get("tie_word_embeddings") is not True:
        return checkpoint
    inputs, outputs = (
        [name for name in checkpoint if f".{name}".endswith(tuple(f".{m}.weight" for m in modules))]
        for modules in (INPUTS, OUTPUTS)
    )
    copies = [
        name
        for name in outputs
        if any(checkpoint.infos[name] == checkpoint.infos[other] for other in inputs)
    ]
    for name in copies:
        logger.info("%s: %s is tied to %s and is not merged apart", folder, name, inputs[0])
    return Subset(checkpoint, copies) if copies else checkpoint


class Subset(Checkpoint):
    """A checkpoint without some of its tensors."""

    def __init__(self, checkpoint: Checkpoint, left_out: Iterable[str]) -> None:
        away = set(left_out)
        super().__init__({n: info for n, info in checkpoint.infos.items() if n not in away})
        self._checkpoint = checkpoint

    def read(self, name: str, start: int, stop: int, room: Stored) -> Any:
        """Elements of a tensor."""
        return self._checkpoint.read(name, start, stop, room)


class AliasedCheckpoint(Checkpoint):
    """A checkpoint of which some tensors have further names."""

    def __init__(self, checkpoint: Checkpoint, aliases: Mapping[str, str]) -> None:
        super().__init__(
            checkpoint.infos | {name: checkpoint.infos[saved] for name, saved in aliases.items()}
        )
        self._checkpoint = checkpoint
        self._aliases = dict(aliases)

    def read(self, name: str, start: int, stop: int, room: Stored) -> Any:
        """Elements of the tensor that has this name, or for which it stands."""
        return self._checkpoint.read(self._aliases.get(name, name), start, stop, room)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    # A model of text and images keeps what is said of its language model apart.
    text = config.get("text_config")
    return config | text if isinstance(text, dict) else config


def _differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str]
) -> list[str]:
    return [
        f"{key} ({ours[key]} in the base, {theirs[key]} in the expert)"
        for key in keys
        if ours.get(key) is not None and theirs.get(key) is not None and ours[key] != theirs[key]
    ]


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embeddings as one flat mapping, whichever way the config writes them.

    transformers 5 writes `"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}`;
    earlier versions wrote `"rope_theta": 10000.0` and `"rope_scaling": null` or
    `{"type": "linear", "factor": 2.0}`. Where types of layers differ, there is one mapping for each
    type, which is compared as a whole.
    """
    parameters = config.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        return dict(parameters)
    rope = {
        "rope_theta": config.get("rope_theta") or _FIRST_THETA.get(str(config.get("model_type"))),
        **(config.get("rope_scaling") or {}),
        **parameters,
    }
    older = rope.pop("type", None)
    return rope | {"rope_type": rope.get("rope_type") or older or "default"}
