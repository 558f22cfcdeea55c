"""Merging in memory: state dicts in, tensors out."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mergegrid.checkpoints.architectures import is_task_head
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, Stored, decode
from mergegrid.checkpoints.state_dict import StateDict, tied_names
from mergegrid.engine.budget import options_for
from mergegrid.engine.engine import Engine
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.merging import MemorySink
from mergegrid.recipes.recipe import Recipe

logger = logging.getLogger(__name__)


def merge_state_dicts(
    base: Mapping[str, Any],
    experts: Mapping[str, Any],
    recipe: Recipe,
    dtype: str = "base",
    threads: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Merge state dicts; the result has the names of the base, in its order.

    Tied tensors stay tied, and tensors of integers are the base's.

    Args:
        base: NumPy arrays or torch tensors by name.
        experts: the same for each expert, with every tensor of the base.
        recipe: which experts are merged, and how.
        dtype: dtype of the result: `base` for that of each tensor of the base, or another.
        threads: number of threads; one per processor if None.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: an expert lacks a tensor or has it in another shape or dtype.
        ConfigError: the recipe does not fit the experts.
    """
    aliases = tied_names(base)
    opened = StateDict(base, "the base", aliases)
    models = {}
    for name, tensors in experts.items():
        label = f"expert {name}"
        if not isinstance(tensors, Mapping):
            raise ConfigError(
                f"{label} is a {type(tensors).__name__}, but the base is a state dict; "
                "pass state dicts for all models, or folders for all"
            )
        models[name] = StateDict(_common(base, tensors, label), label, aliases)
        _check_constants(opened, models[name], label)
    engine = Engine(opened, models, options=options_for(device, threads))
    infos = {
        name: TensorInfo(info.shape, DTYPES.get(dtype, info.dtype))
        for name, info in opened.infos.items()
    }
    sink = MemorySink(infos)
    engine.stream([(engine.bind(recipe), sink)])
    torch = sys.modules.get("torch")
    as_torch = torch is not None and any(isinstance(t, torch.Tensor) for t in base.values())
    merged = output_arrays(sink.stored, infos, torch if as_torch else None)
    merged |= {alias: merged[name] for alias, name in aliases.items()}
    merged |= opened.constants
    return {name: merged[name] for name in base}


def output_arrays(
    stored: Mapping[str, Stored], infos: Mapping[str, TensorInfo], torch: Any = None
) -> dict[str, Any]:
    """Stored tensors in their shapes: of torch, or of NumPy with bfloat16 as float32.

    Args:
        stored: flat tensors as stored.
        infos: their shapes and dtypes.
        torch: the module, for torch tensors; None for NumPy arrays.
    """
    return {name: _array(numbers, infos[name], torch) for name, numbers in stored.items()}


def _array(stored: Stored, info: TensorInfo, torch: Any) -> Any:
    if torch is not None:
        tensor = torch.from_numpy(stored).view(getattr(torch, info.dtype.name))
        return tensor.view(info.shape)
    if info.dtype.name != "bfloat16":
        return stored.reshape(info.shape)
    values = np.empty(info.count, np.float32)
    decode(stored, info.dtype, values)
    return values.reshape(info.shape)


def _common(base: Mapping[str, Any], expert: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The tensors of an expert that the base has; a task head may be left out."""
    extra = [name for name in expert if name not in base]
    heads = [name for name in extra if is_task_head(name, {})]
    others = sorted(set(extra) - set(heads))
    if others:
        raise CheckpointError(
            f"the base has no {others[0]}, which {label} has ({len(others)} such tensors); "
            "remove it, or merge with the base that the expert was fine-tuned from"
        )
    if heads:
        logger.info("%s: the task head is not merged: %s", label, ", ".join(heads))
    return {name: expert[name] for name in base if name in expert}


def _check_constants(base: StateDict, expert: StateDict, label: str) -> None:
    for name, value in base.constants.items():
        other = expert.constants.get(name)
        if other is not None and not np.array_equal(np.asarray(value), np.asarray(other)):
            raise CheckpointError(
                f"{name} of {label} holds other integers than that of the base, and integers are "
                "not merged; remove it from both state dicts"
            )
